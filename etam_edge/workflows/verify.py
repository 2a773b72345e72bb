"""Whether a bundle computes what its manifest says."""

from __future__ import annotations

from etam_edge.bundle import Bundle
from etam_edge.runtimes.answer import check_answer
from etam_edge.runtimes.backends.onnxruntime.backend import OnnxRuntimeBackend


def verify_answer(bundle: Bundle) -> float:
    """Track a fixed stream in ONNX Runtime on the CPU, and compare the results with those in the manifest.

    Returns:
        the relative difference.

    Raises:
        BundleError: the manifest holds no answer, or the bundle gives another one.
        RuntimeUnavailableError: ONNX Runtime is not installed.
    """
    return check_answer(bundle, OnnxRuntimeBackend(bundle, provider="cpu"))
