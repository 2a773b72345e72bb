"""Bundle to masks. NumPy, Pillow and one backend; never torch, never onnx."""

from etam_edge.runtimes.session import Session
from etam_edge.runtimes.tracker import Tracker
from etam_edge.runtimes.types import FrameResult, Prompt

__all__ = ["FrameResult", "Prompt", "Session", "Tracker"]
