"""Tracked frames on the timeline of a Rerun viewer, or in a .rrd file that it opens later."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import numpy as np

from etam_edge.errors import InputError, RuntimeUnavailableError
from etam_edge.media.overlay import colour
from etam_edge.media.sinks.base import PendingFile
from etam_edge.media.sources import NamedFrame
from etam_edge.runtimes.types import FrameResult

VIEWER = ("127.0.0.1", 9876)
"""Where a viewer that was started with the command `rerun` listens."""
JPEG_QUALITY = 80


class RerunLog:
    """Logs image, label image, boxes, scores and timings.

    Timelines are `frame` (its index in the source) and `source` (its timestamp, in seconds). Where masks overlap, a
    pixel belongs to the object with the higher score.

    Args:
        path: of a .rrd file, or None for the viewer that runs on this machine.
        overwrite: replace a file that is there.

    Attributes:
        path: of the file, or None.

    Raises:
        InputError: the file cannot be written, or no viewer runs.
        RuntimeUnavailableError: rerun-sdk is not installed.
    """

    def __init__(self, path: Path | None, overwrite: bool = False) -> None:
        try:
            import rerun
        except ImportError as error:
            raise RuntimeUnavailableError(
                f"`rerun` needs rerun-sdk, which cannot be imported ({error}); install it with: "
                'pip install "etam-edge[rerun]"'
            ) from error
        self._rerun: Any = rerun
        self._recording: Any = rerun.RecordingStream("etam-edge live")
        self._pending: PendingFile | None = None
        self._described: tuple[int, ...] | None = None
        self.path = path
        if path is None:
            _check_viewer()
            self._recording.connect_grpc()
            return
        if path.suffix.lower() != ".rrd":
            raise InputError(f"`rerun={path}` is not a .rrd file; name one that ends in .rrd")
        self._pending = PendingFile(path, "rerun", overwrite)
        self._recording.save(self._pending.temporary)

    def write(self, frame: NamedFrame, result: FrameResult) -> None:
        rerun, recording = self._rerun, self._recording
        recording.set_time("frame", sequence=frame.index)
        if frame.timestamp is not None:
            recording.set_time("source", duration=frame.timestamp)
        if result.object_ids != self._described:
            self._described = result.object_ids
            classes = [(_class(one), f"object {one}", tuple(map(int, colour(one)))) for one in result.object_ids]
            recording.log("camera", rerun.AnnotationContext(classes))
        recording.log("camera/image", rerun.Image(frame.pixels).compress(jpeg_quality=JPEG_QUALITY))
        labels = np.zeros(frame.pixels.shape[:2], dtype=np.uint16)
        for row in np.argsort(result.object_scores, kind="stable"):
            labels[result.masks[row]] = _class(result.object_ids[row])
        recording.log("camera/masks", rerun.SegmentationImage(labels))
        seen = np.flatnonzero(result.areas > 0)
        recording.log(
            "camera/boxes",
            rerun.Boxes2D(
                array=result.boxes[seen].reshape(-1, 4),
                array_format=rerun.Box2DFormat.XYXY,
                class_ids=[_class(result.object_ids[row]) for row in seen],
            ),
        )
        for row, object_id in enumerate(result.object_ids):
            recording.log(f"objects/{object_id}/score", rerun.Scalars(float(result.object_scores[row])))
            recording.log(f"objects/{object_id}/iou", rerun.Scalars(float(result.ious[row])))

    def timings(self, age: float, frame_time: float, skipped: int) -> None:
        """Log the timings of the frame that was written last.

        Args:
            age: from its capture to its masks, in seconds.
            frame_time: that the tracker took, in seconds.
            skipped: number of frames skipped since the run began.
        """
        scalars = self._rerun.Scalars
        self._recording.log("timing/age_ms", scalars(1e3 * age))
        self._recording.log("timing/frame_time_ms", scalars(1e3 * frame_time))
        self._recording.log("timing/skipped", scalars(skipped))

    def close(self) -> None:
        self._recording.flush()
        self._recording.disconnect()
        if self._pending is not None:
            self._pending.commit()

    def discard(self) -> None:
        self._recording.disconnect()
        if self._pending is not None:
            self._pending.discard()


def _class(object_id: int) -> int:
    """A class id of Rerun, which has 16 bits; 0 is the background."""
    return (object_id - 1) % 65535 + 1


def _check_viewer() -> None:
    """
    Raises:
        InputError: nothing listens where a viewer would.
    """
    try:
        socket.create_connection(VIEWER, timeout=2).close()
    except OSError as error:
        raise InputError(
            f"no Rerun viewer listens at {VIEWER[0]}:{VIEWER[1]} ({error.strerror or error}); start one with the "
            "command rerun, or name a file: `rerun=run.rrd`"
        ) from error
