"""The exported graphs, run by a session, answer what the reference answered."""

from __future__ import annotations

import pytest
from conftest import BundleMaker
from goldens import GOLDENS, Answer, Comparison, Golden, frame, steps

from etam_edge import FrameResult, Prompt, Session, Tracker

pytest.importorskip("onnxruntime")


def answers_of(session: Session, result: FrameResult) -> dict[int, Answer]:
    return {
        object_id: Answer(
            mask_logits=result.mask_logits[row],
            pointer=session.object_pointer(object_id),
            score=float(result.object_scores[row]),
        )
        for row, object_id in enumerate(result.object_ids)
    }


# Sorted so that goldens of the same weights share one export.
@pytest.mark.parametrize("golden", sorted(GOLDENS, key=lambda golden: golden.weights_id), ids=lambda golden: golden.id)
def test_session_reproduces_golden(golden: Golden, seeded_bundle: BundleMaker) -> None:
    tracker = Tracker.load(seeded_bundle(*golden.weights_id), runtime="onnxruntime", provider="cpu")
    size = tracker.spec.image_size
    plan = list(steps(golden.scenario, size))
    session = tracker.start_session(corrections_condition=any(step.becomes_conditioning for step in plan))
    answers: dict[tuple[int, int], Answer] = {}
    for step in plan:
        prompts = {object_id: Prompt(**prompt) for object_id, prompt in step.prompts.items()}
        if step.verb == "track":
            result = session.track(frame(step.frame, size), prompts=prompts)
        else:
            [(object_id, prompt)] = prompts.items()
            result = session.refine(object_id, prompt)
        for object_id, answer in answers_of(session, result).items():
            answers[object_id, step.frame] = answer
    comparison = Comparison(golden)
    comparison.check(answers)
    print(comparison.row())
    assert not comparison.failures
