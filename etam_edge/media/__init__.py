"""Frames in, results out: sources, data sets, prompts, the playback loop, overlays and output files.

Needs NumPy and Pillow; videos, cameras and overlays need OpenCV.
"""

from etam_edge.media.packaged import CHAIR_VIDEO, chair_masks, chair_outline, crossing, write_clips

__all__ = ["CHAIR_VIDEO", "chair_masks", "chair_outline", "crossing", "write_clips"]
