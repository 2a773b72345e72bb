"""The two ways in which a session resizes on the host, and what asks for them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import SmallBundleMaker

from etam_edge import Prompt, Tracker
from etam_edge.errors import InputError, RuntimeUnavailableError
from etam_edge.runtimes.resample import resize_bilinear, resize_frame
from etam_edge.runtimes.resizing import FAST, ExactResizing, FastResizing
from etam_edge.spec import Pooling
from etam_edge_testing.small import clip_frame

pytest.importorskip("onnxruntime")

CLICK = Prompt(points=[(75, 60)], labels=[1])


@pytest.fixture
def tracker(small_bundle: SmallBundleMaker) -> Tracker:
    return Tracker.load(small_bundle(Pooling.SCORE_BIAS), "onnxruntime", provider="cpu", threads=1)


def test_exact_is_what_the_reference_does() -> None:
    frame, logits = clip_frame(0, 90, 160), np.random.default_rng(0).normal(size=(2, 32, 32)).astype(np.float32)
    np.testing.assert_array_equal(ExactResizing().frame(frame, 128), resize_frame(frame, 128))
    np.testing.assert_array_equal(ExactResizing().masks(logits, 90, 160), resize_bilinear(logits, 90, 160) > 0)


@pytest.mark.parametrize("size", [(300, 500), (90, 160), (60, 50), (128, 128), (128, 300)])
def test_fast_is_near(size: tuple[int, int]) -> None:
    """Shrunk, enlarged, and one axis of each."""
    pytest.importorskip("cv2")
    frame = clip_frame(1, *size)
    fast = FastResizing().frame(frame, 128)
    assert (fast.dtype, fast.shape, fast.flags.c_contiguous) == (np.uint8, (128, 128, 3), True)
    difference = np.abs(fast.astype(int) - resize_frame(frame, 128).astype(int))
    assert difference.mean() < 2
    logits = np.random.default_rng(0).normal(size=(3, 32, 32)).astype(np.float32)
    masks, large = FastResizing().masks(logits, *size), resize_bilinear(logits, *size)
    assert (masks.dtype, masks.shape) == (np.bool_, (3, *size))
    assert ((np.abs(large) < 1e-4) | (masks == (large > 0))).all()
    assert FastResizing().masks(logits[:0], *size).shape == (0, *size)


def test_fast_averages_what_it_shrinks() -> None:
    """A chessboard of single pixels is grey, and no pattern, at half its size; so it is where the other axis grows."""
    pytest.importorskip("cv2")
    for height in (256, 64):
        board = 255 * (np.indices((height, 256)).sum(axis=0) % 2).astype(np.uint8)
        shrunk = FastResizing().frame(np.repeat(board[..., None], 3, axis=2), 128)
        assert np.abs(shrunk.astype(int) - 128).max() <= 1


def test_sessions_track_alike(tracker: Tracker) -> None:
    pytest.importorskip("cv2")
    sessions = tracker.start_session(), tracker.start_session(resize=FAST)
    for index in range(5):
        prompts = {1: CLICK} if index == 0 else None
        exact, fast = (session.track(clip_frame(index, 120, 200), prompts=prompts) for session in sessions)
        assert (exact.masks != fast.masks).mean() < 0.05
        assert not np.array_equal(exact.mask_logits, fast.mask_logits)


def test_the_way_is_saved_and_resumed(tracker: Tracker, tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    session = tracker.start_session(resize=FAST)
    session.track(clip_frame(0, 120, 200), prompts={1: CLICK})
    session.save(tmp_path / "state.npz")
    resumed = tracker.resume_session(tmp_path / "state.npz")
    for index in range(1, 3):
        results = [one.track(clip_frame(index, 120, 200)) for one in (session, resumed)]
        np.testing.assert_array_equal(results[0].mask_logits, results[1].mask_logits)
        np.testing.assert_array_equal(results[0].masks, results[1].masks)


def test_a_state_from_before_resumes_exactly(tracker: Tracker, tmp_path: Path) -> None:
    """Files that know nothing of it."""
    session = tracker.start_session()
    session.track(clip_frame(0, 120, 200), prompts={1: CLICK})
    session.save(tmp_path / "state.npz")
    with np.load(tmp_path / "state.npz") as file:
        arrays = dict(file)
    about = json.loads(str(arrays.pop("about")))
    assert about["options"].pop("resize") == "exact"
    del about["sha256"]
    about["version"] = 1
    for _, memory in about["objects"]:
        del memory["row"]
    np.savez(tmp_path / "old.npz", about=np.array(json.dumps(about)), **arrays)
    results = [one.track(clip_frame(1, 120, 200)) for one in (session, tracker.resume_session(tmp_path / "old.npz"))]
    np.testing.assert_array_equal(results[0].masks, results[1].masks)


def test_another_word_is_refused(tracker: Tracker) -> None:
    with pytest.raises(InputError, match="resize 'quick' is not known; use exact or fast"):
        tracker.start_session(resize="quick")


def test_without_opencv_fast_says_what_to_install(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(
        RuntimeUnavailableError, match=r'needs OpenCV; install it with: pip install "etam-edge\[video\]"'
    ):
        tracker.start_session(resize=FAST)
    assert tracker.start_session().track(clip_frame(0), prompts={1: CLICK}).object_ids == (1,)
