"""Clips: frames, prompts and ground truth, from files or out of this package. NumPy, Pillow, OpenCV for videos."""

from etam_edge.media.packaged import CHAIR_VIDEO, chair_masks, chair_outline, crossing, write_clips

__all__ = ["CHAIR_VIDEO", "chair_masks", "chair_outline", "crossing", "write_clips"]
