"""The PyTorch model answers what the reference answered, on equal weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from goldens import GOLDENS, Answer, Comparison, Golden, frame, seeded_state_dict, steps

torch = pytest.importorskip("torch")

from etam_edge.model import EfficientTAM, ReferenceTracker  # noqa: E402
from etam_edge.model.reference_tracker import FrameMemory  # noqa: E402
from etam_edge.spec import find_spec  # noqa: E402


def model_with(golden: Golden) -> EfficientTAM:
    model = EfficientTAM(find_spec(golden.variant)).eval()
    weights = seeded_state_dict(*golden.weights_id)
    model.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()}, strict=True)
    return model


def as_points(prompt: dict[str, Any]) -> dict[str, np.ndarray]:
    """A box is two points labelled 2 and 3."""
    if "box" in prompt:
        return {"points": np.reshape(prompt["box"], (2, 2)), "labels": np.array([2, 3])}
    return {name: np.asarray(value) for name, value in prompt.items()}


def answer(memory: FrameMemory) -> Answer:
    said = memory.segmentation
    return Answer(
        mask_logits=said.mask_logits[0, 0].numpy(),
        pointer=said.pointer[0].numpy(),
        score=float(said.score[0, 0]),
        memory=memory.memory[0].numpy(),
    )


@pytest.mark.parametrize("golden", GOLDENS, ids=lambda golden: golden.id)
def test_model_reproduces_golden(golden: Golden) -> None:
    model = model_with(golden)
    size = model.spec.image_size
    plan = list(steps(golden.scenario, size))
    tracker = ReferenceTracker(model, corrections_condition=any(step.becomes_conditioning for step in plan))
    answers: dict[tuple[int, int], Answer] = {}
    for step in plan:
        prompts = {object_id: as_points(prompt) for object_id, prompt in step.prompts.items()}
        if step.verb == "track":
            for object_id, memory in tracker.track(frame(step.frame, size), prompts).items():
                answers[object_id, step.frame] = answer(memory)
        else:
            for object_id, prompt in prompts.items():
                answers[object_id, step.frame] = answer(tracker.refine(object_id, prompt))
    comparison = Comparison(golden)
    comparison.check(answers)
    print(comparison.row())
    assert not comparison.failures
