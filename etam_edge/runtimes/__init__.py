"""Runs bundles: trackers, segmenters and sessions. Needs NumPy, Pillow and one runtime; never torch or onnx."""

from etam_edge.runtimes.everything.options import EverythingOptions
from etam_edge.runtimes.everything.proposal import Proposal
from etam_edge.runtimes.observer import SessionObserver
from etam_edge.runtimes.segmenter import Prediction, Segmenter
from etam_edge.runtimes.session import Session
from etam_edge.runtimes.tracker import Tracker
from etam_edge.runtimes.types import FrameResult, ObjectResult, Prompt

__all__ = [
    "EverythingOptions",
    "FrameResult",
    "ObjectResult",
    "Prediction",
    "Prompt",
    "Proposal",
    "Segmenter",
    "Session",
    "SessionObserver",
    "Tracker",
]
