"""Imports OpenCV, which draws overlays and finds the boundaries of masks."""

from __future__ import annotations

import os
from typing import Any

from etam_edge.errors import RuntimeUnavailableError

FFMPEG_QUIET = "-8"
"""FFmpeg's log level AV_LOG_QUIET."""


def import_opencv(user: str | None = None) -> Any:
    """The module of OpenCV, with its own messages silenced.

    Args:
        user: what needs it, for the message; by default overlay videos.

    Raises:
        RuntimeUnavailableError: OpenCV is not installed.
    """
    try:
        import cv2
    except ImportError as error:
        need = f"{user} needs" if user else "overlay videos need"
        instead = "" if user else ", or use `masks`"
        raise RuntimeUnavailableError(
            f"{need} OpenCV, which cannot be imported ({error}); "
            f'install it with: pip install "etam-edge[video]"{instead}'
        ) from error
    # OpenCV and FFmpeg would print their own messages about damaged files before the error is raised.
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", FFMPEG_QUIET)
    return cv2
