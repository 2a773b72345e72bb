"""Options of the commands that read a source of frames."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from etam_edge.errors import InputError

if TYPE_CHECKING:
    from etam_edge.media.sources import SourceOptions

SOURCE_HELP = (
    "Video file, folder of images, camera (0, /dev/video0, csi://0, v4l2://0), rtsp:// or http:// address, GStreamer "
    "pipeline that ends in appsink, or - for raw frames on standard input."
)
StartOption = Annotated[
    str | None, typer.Option(metavar="FRAME|TIME", help="First frame: a number (120) or a time (4.5, 1:30).")
]
EndOption = Annotated[
    str | None, typer.Option(metavar="FRAME|TIME", help="Frame or time to stop before, counted as for --start.")
]
DepthRangeOption = Annotated[
    str | None,
    typer.Option(
        metavar="LOW,HIGH",
        help="Counts of 16-bit grey images that become black and white.",
        show_default="1st to 99th percentile, for folders",
    ),
]
SizeOption = Annotated[
    str | None, typer.Option(metavar="WxH", help="Size of raw frames on standard input, or wanted from a camera.")
]
PixelFormatOption = Annotated[
    str | None, typer.Option(metavar="FORMAT", help="Of raw frames: rgb24, bgr24, gray, yuyv422 or nv12.")
]


def source_options(
    start: str | None = None,
    end: str | None = None,
    depth_range: str | None = None,
    size: str | None = None,
    pixel_format: str | None = None,
) -> SourceOptions:
    """Options of a source from the texts of command-line options.

    Raises:
        InputError: a text cannot be used.
    """
    from etam_edge.cli.frame_size import parse_frame_size
    from etam_edge.media.sources import Moment, Section, SourceOptions

    section = Section(
        None if start is None else Moment.parse(start, "start"), None if end is None else Moment.parse(end, "end")
    )
    return SourceOptions(
        section=section,
        depth_range=None if depth_range is None else _range(depth_range),
        size=None if size is None else parse_frame_size(size, "--size"),
        pixel_format=pixel_format,
    )


def _range(text: str) -> tuple[float, float]:
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"`depth_range={text}` is not of the form LOW,HIGH; give two counts, as in 500,4000") from None
    return low, high
