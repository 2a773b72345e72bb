"""Run the scenario of a golden with the PyTorch model, or with a session on exported graphs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from etam_edge import FrameResult, Prompt, Session, Tracker
from etam_edge.spec import find_spec
from etam_edge_testing.goldens import Golden, ObjectOutputs, frame, seeded_state_dict, steps

if TYPE_CHECKING:
    from torch import Tensor

    from etam_edge.model import EfficientTAM
    from etam_edge.model.reference_tracker import FrameMemory

_ENCODED: dict[tuple[str, int, str], Tensor] = {}

ScenarioOutputs = dict[tuple[int, int], ObjectOutputs]
"""Outputs by (object id, frame index). After a correction, those of the correction."""


def seeded_model(variant: str, seed: int, form: str = "") -> EfficientTAM:
    """Return a variant with deterministic weights, in evaluation mode."""
    import torch

    from etam_edge.model import EfficientTAM

    model = EfficientTAM(find_spec(variant)).eval()
    weights = seeded_state_dict(variant, seed, form)
    model.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()}, strict=True)
    return model


def model_outputs(golden: Golden, model: EfficientTAM) -> ScenarioOutputs:
    """Return the outputs of the PyTorch model."""
    from etam_edge.model import ReferenceTracker

    size = model.spec.image_size
    model.encode = _encoding_once(model)  # type: ignore[method-assign]
    plan = list(steps(golden.scenario, size))
    tracker = ReferenceTracker(model, corrections_condition=any(step.becomes_conditioning for step in plan))
    outputs: ScenarioOutputs = {}
    for step in plan:
        prompts = {object_id: _as_points(prompt) for object_id, prompt in step.prompts.items()}
        if step.verb == "track":
            for object_id, memory in tracker.track(frame(step.frame, size), prompts).items():
                outputs[object_id, step.frame] = _model_outputs(memory)
        else:
            for object_id, prompt in prompts.items():
                outputs[object_id, step.frame] = _model_outputs(tracker.refine(object_id, prompt))
    return outputs


def _encoding_once(model: EfficientTAM) -> Callable[[Tensor], Tensor]:
    """Return the model's `encode` with a cache that all models with equal image encoders share.

    Most goldens differ after the image encoder, which is half of the work at 1024 px.
    """
    encode = type(model).encode
    digest = hashlib.sha256()
    for name, weight in model.image_encoder.state_dict().items():
        digest.update(name.encode() + weight.numpy().tobytes())
    weights = digest.hexdigest()

    def encode_once(frame: Tensor) -> Tensor:
        key = weights, model.spec.image_size, hashlib.sha256(frame.numpy().tobytes()).hexdigest()
        if key not in _ENCODED:
            _ENCODED[key] = encode(model, frame)
        return _ENCODED[key]

    return encode_once


def session_outputs(golden: Golden, tracker: Tracker) -> ScenarioOutputs:
    """Return the outputs of the exported graphs, run by a session."""
    size = tracker.spec.image_size
    plan = list(steps(golden.scenario, size))
    session = tracker.start_session(corrections_condition=any(step.becomes_conditioning for step in plan))
    outputs: ScenarioOutputs = {}
    for step in plan:
        prompts = {object_id: Prompt(**prompt) for object_id, prompt in step.prompts.items()}
        if step.verb == "track":
            result = session.track(frame(step.frame, size), prompts=prompts)
        else:
            [(object_id, prompt)] = prompts.items()
            result = session.refine(object_id, prompt)
        for object_id, one in _session_outputs(session, result).items():
            outputs[object_id, step.frame] = one
    return outputs


def _as_points(prompt: dict[str, Any]) -> dict[str, np.ndarray]:
    """Return a prompt as points and labels. A box is two points with the labels 2 and 3."""
    if "box" in prompt:
        return {"points": np.reshape(prompt["box"], (2, 2)), "labels": np.array([2, 3])}
    return {name: np.asarray(value) for name, value in prompt.items()}


def _model_outputs(memory: FrameMemory) -> ObjectOutputs:
    segmentation = memory.segmentation
    return ObjectOutputs(
        mask_logits=segmentation.mask_logits[0, 0].numpy(),
        pointer=segmentation.pointer[0].numpy(),
        score=float(segmentation.score[0, 0]),
        memory=memory.memory[0].numpy(),
    )


def _session_outputs(session: Session, result: FrameResult) -> dict[int, ObjectOutputs]:
    return {
        object_id: ObjectOutputs(
            mask_logits=result.mask_logits[row],
            pointer=session.object_pointer(object_id),
            score=float(result.object_scores[row]),
        )
        for row, object_id in enumerate(result.object_ids)
    }
