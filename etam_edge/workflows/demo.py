"""What the demo needs before it starts."""

from __future__ import annotations

from pathlib import Path

from etam_edge.errors import InputError


def prepare_demo(output: Path, clips: Path) -> None:
    """Write the clips of this package, and check that the packages of a check are installed.

    Args:
        output: folder of the demo, for errors.
        clips: folder for the clips, inside it.

    Raises:
        InputError: the folder cannot be written.
        RuntimeUnavailableError: OpenCV is not installed.
    """
    from etam_edge.evaluation.runs import need_opencv
    from etam_edge.media import write_clips

    need_opencv()
    try:
        write_clips(clips)
    except InputError as error:
        raise InputError(f"`output={output}` cannot be made ({error}); name another folder") from error
