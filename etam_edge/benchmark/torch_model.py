"""The PyTorch model as something to measure against: same frames, same prompts, masks at the same size."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from etam_edge.benchmark.measure import Candidate, Stream
from etam_edge.runtimes.prompts import prepare
from etam_edge.runtimes.resample import resize_bilinear, resize_frame
from etam_edge.runtimes.types import Prompt
from etam_edge.spec import GraphSizes

if TYPE_CHECKING:
    from etam_edge.model import EfficientTAM


def prepare_torch(threads: int | None) -> str:
    """Import PyTorch, limit its CPU threads, and return its version.

    Raises:
        ImportError: PyTorch is not installed.
    """
    from etam_edge.model.threads import limit_threads

    return limit_threads(threads)


def torch_candidate(name: str, model: EfficientTAM, sizes: GraphSizes) -> Candidate:
    """The plain model on the CPU, with as many conditioning frames as a bundle of these sizes has.

    Args:
        name: of its side.
        model: in evaluation mode.
        sizes: of the bundle it is compared with.
    """
    spec = model.spec

    def start(objects: int) -> Stream:
        from etam_edge.model import ReferenceTracker

        tracker = ReferenceTracker(model, max_conditioning_frames=sizes.conditioning_frames)

        def track(frame: np.ndarray, prompts: dict[int, Prompt] | None) -> np.ndarray:
            shape = (frame.shape[0], frame.shape[1])
            given = {number: _as_reference(number, prompt, shape) for number, prompt in (prompts or {}).items()}
            # torch wants an array that it may write to.
            answers = tracker.track(np.array(resize_frame(frame, spec.image_size)), given)
            logits = np.stack([answer.segmentation.mask_logits[0, 0].numpy() for answer in answers.values()])
            return resize_bilinear(logits, *shape) > 0

        return track

    def _as_reference(number: int, prompt: Prompt, shape: tuple[int, int]) -> dict[str, np.ndarray]:
        prepared = prepare(prompt, number, shape, spec, sizes)
        if prepared.mask is not None:
            return {"mask": prepared.mask.astype(bool)}
        return {"points": prepared.points[: prepared.count], "labels": prepared.labels[: prepared.count]}

    return Candidate(name, start)
