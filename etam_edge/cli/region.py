"""What the commands that look for everything share: the option `--region`, and what they say if nothing was found."""

from __future__ import annotations

from etam_edge.errors import InputError

NOTHING_FOUND = (
    "no mask passed the thresholds; lower --pred-iou-thresh or --stability-score-thresh, or use a larger model"
)


def as_region(text: str | None) -> list[float] | None:
    """The corners of "X0,Y0,X1,Y1", or None.

    Raises:
        InputError: the text is not four numbers.
    """
    if text is None:
        return None
    try:
        x0, y0, x1, y1 = (float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"`region={text}` is not X0,Y0,X1,Y1 in pixels") from None
    return [x0, y0, x1, y1]
