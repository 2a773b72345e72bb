"""More objects than a session was started for, and more than a backend takes in one call."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import SmallBundleMaker

from etam_edge import FrameResult, Prompt, Session, Tracker
from etam_edge.errors import InputError
from etam_edge.spec import Pooling
from etam_edge_testing.small import clip_frame


def click(number: int) -> Prompt:
    return Prompt(points=[(15.0 + 8 * number, 20.0 + 7 * number)], labels=[1])


def stream(session: Session, grow: bool) -> list[FrameResult]:
    """Four objects, of which two are added on the third frame, one removed and one corrected."""
    results = [session.track(clip_frame(0), prompts={1: click(1), 2: click(2)}), session.track(clip_frame(1))]
    if grow:
        session.reserve(5)
    results += [session.track(clip_frame(2), prompts={3: click(3), 4: click(4)}), session.track(clip_frame(3))]
    if grow:
        session.reserve(9)
    results.append(session.refine(3, click(5)))
    session.remove(2)
    return [*results, session.track(clip_frame(4))]


@pytest.mark.parametrize("pooling", [Pooling.NONE, Pooling.SCORE_BIAS])
def test_a_session_that_grew_answers_as_one_that_was_large(pooling: Pooling, small_bundle: SmallBundleMaker) -> None:
    tracker = Tracker.load(small_bundle(pooling))
    expected = stream(tracker.start_session(max_objects=5), grow=False)
    session = tracker.start_session(max_objects=2)
    before = session.nbytes
    for one, other in zip(stream(session, grow=True), expected, strict=True):
        assert one.object_ids == other.object_ids
        np.testing.assert_array_equal(one.mask_logits, other.mask_logits)
    assert session.max_objects == 9
    assert session.nbytes > 2 * before


def test_room_is_asked_for_and_never_given_back(small_bundle: SmallBundleMaker, tmp_path: Path) -> None:
    tracker = Tracker.load(small_bundle(Pooling.NONE))
    session = tracker.start_session(max_objects=1)
    session.reserve(1)
    with pytest.raises(
        InputError, match=r"2 objects are more than this session can hold \(1\); call session.reserve\(2\)"
    ):
        session.track(clip_frame(0), prompts={1: click(1), 2: click(2)})
    for value in (0, 2.5, True, "3"):
        with pytest.raises(InputError, match="max_objects must be a whole number"):
            session.reserve(value)  # type: ignore[arg-type]
    session.reserve(2)
    session.reserve(1)
    session.track(clip_frame(0), prompts={1: click(1), 2: click(2)})
    session.save(tmp_path / "state.npz")
    resumed = tracker.resume_session(tmp_path / "state.npz")
    assert resumed.max_objects == 2
    np.testing.assert_array_equal(resumed.track(clip_frame(1)).mask_logits, session.track(clip_frame(1)).mask_logits)


def test_a_backend_that_takes_few_objects_tracks_more_in_batches(
    small_bundle: SmallBundleMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = Tracker.load(small_bundle(Pooling.NONE))
    prompts = {number: click(number) for number in range(1, 6)}

    def results() -> list[FrameResult]:
        session = tracker.start_session()
        return [session.track(clip_frame(0), prompts=prompts), *(session.track(clip_frame(i)) for i in range(1, 4))]

    expected = results()
    sizes = []
    run = tracker.backend.run

    def noted(graph: str, inputs: dict, outputs: dict) -> None:
        sizes.append((graph, outputs["mask_logits"].shape[0] if "mask_logits" in outputs else 1))
        run(graph, inputs, outputs)

    monkeypatch.setattr(tracker.backend, "run", noted)
    monkeypatch.setattr(tracker.backend, "max_objects", 2, raising=False)
    for one, other in zip(results(), expected, strict=True):
        np.testing.assert_allclose(one.mask_logits, other.mask_logits, atol=1e-4)
    assert [size for graph, size in sizes if graph == "track"] == [2, 2, 1] * 3
