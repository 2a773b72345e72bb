"""Runs bundles: trackers, sessions and their backends. Needs NumPy, Pillow and one runtime; never torch or onnx."""

from etam_edge.runtimes.observer import SessionObserver
from etam_edge.runtimes.session import Session
from etam_edge.runtimes.tracker import Tracker
from etam_edge.runtimes.types import FrameResult, ObjectResult, Prompt

__all__ = ["FrameResult", "ObjectResult", "Prompt", "Session", "SessionObserver", "Tracker"]
