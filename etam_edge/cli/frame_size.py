"""Frame sizes on the command line, for example 1920x1080."""

from __future__ import annotations

from etam_edge.errors import InputError
from etam_edge.spec import check_frame_size


def parse_frame_size(text: str, option: str = "--frame-size") -> tuple[int, int]:
    """(height, width) of "WIDTHxHEIGHT" in pixels.

    Raises:
        InputError: the text is not of that form, or no camera has such frames.
    """
    parts = text.strip().lower().split("x")
    if len(parts) != 2 or not all(part.isascii() and part.isdigit() for part in parts):
        raise InputError(f"{option} {text} is not a size; give one like 1280x720")
    width, height = (int(part[:9]) for part in parts)
    try:
        check_frame_size((height, width))
    except InputError as error:
        raise InputError(f"{option} {text}: {error}") from None
    return height, width
