"""`python -m etam_edge` is `etam-edge`."""

from etam_edge.cli.app import main

if __name__ == "__main__":
    main()
