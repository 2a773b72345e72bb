"""Everything in an image: a grid of points is decoded, and the masks are selected as the reference selects them."""
