"""Output files of tracking: an overlay video, PNG masks, and JSON lines of scores.

    with request.open(frames.frames_per_second, frames.frame_shape, [1], {1: "cup"}) as outputs:
        for frame, result in ...:
            outputs.write(frame, result)

Frames are written one by one. A video or score file appears when it is complete; each mask appears as soon as it is
written. However the block ends (the last frame, an error, Ctrl-C, SIGTERM), what was written so far is completed.
"""

from etam_edge.media.sinks.base import Output
from etam_edge.media.sinks.masks import MaskFolder
from etam_edge.media.sinks.outputs import Outputs
from etam_edge.media.sinks.request import OutputRequest
from etam_edge.media.sinks.scores import ScoreLines
from etam_edge.media.sinks.video import DEFAULT_RATE, OverlayVideo

__all__ = ["DEFAULT_RATE", "MaskFolder", "Output", "OutputRequest", "Outputs", "OverlayVideo", "ScoreLines"]
