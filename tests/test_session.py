"""Sessions: several objects, failures that leave no trace, state that resumes, memory that stays constant."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import SmallBundleMaker
from PIL import Image

from etam_edge import EtamError, FrameResult, Prompt, Session, Tracker
from etam_edge.errors import InputError, RuntimeUnavailableError
from etam_edge.runtimes.backends.onnxruntime import backend as onnxruntime_backend
from etam_edge.spec import Pooling
from etam_edge_testing.small import SIZES, clip_frame

pytest.importorskip("onnxruntime")

CLICK = Prompt(points=[(64, 88)], labels=[1])
BOX = Prompt(box=(20, 30, 90, 100))


@pytest.fixture(params=list(Pooling), ids=lambda pooling: pooling.value)
def tracker(request: pytest.FixtureRequest, small_bundle: SmallBundleMaker) -> Tracker:
    # So small a model is slower on two threads: they wait for each other.
    return Tracker.load(small_bundle(request.param), runtime="onnxruntime", provider="cpu", threads=1)


@pytest.fixture
def session(tracker: Tracker) -> Session:
    return tracker.start_session()


def same(first: FrameResult, second: FrameResult) -> None:
    for name in ("frame_index", "object_ids"):
        assert getattr(first, name) == getattr(second, name)
    for name in ("masks", "mask_logits", "object_scores", "ious", "mask_choices"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


def test_result_has_the_promised_shapes(session: Session) -> None:
    result = session.track(clip_frame(0, 96, 150), prompts={7: CLICK, 3: BOX})
    assert result.frame_index == 0
    assert result.object_ids == (7, 3)
    assert (result.masks.dtype, result.masks.shape) == (np.bool_, (2, 96, 150))
    assert (result.mask_logits.dtype, result.mask_logits.shape) == (np.float32, (2, 32, 32))
    for scores in (result.object_scores, result.ious):
        assert (scores.dtype, scores.shape) == (np.float32, (2,))
    pointer = session.object_pointer(3)
    assert (pointer.dtype, pointer.shape) == (np.float32, (64,))


def test_before_the_first_prompt_there_is_nothing_to_track(session: Session) -> None:
    result = session.track(clip_frame(0))
    assert result.object_ids == ()
    assert result.masks.shape == (0, 128, 128)
    assert session.track(clip_frame(1), prompts={1: CLICK}).frame_index == 1


def test_memory_matters(tracker: Tracker) -> None:
    """The same frame is answered differently after different pasts."""
    answers = []
    for prompt in (CLICK, BOX):
        session = tracker.start_session()
        session.track(clip_frame(0), prompts={1: prompt})
        answers.append(session.track(clip_frame(1)).mask_logits)
    assert np.abs(answers[0] - answers[1]).max() > 0.05


def test_objects_together_answer_as_they_do_alone(tracker: Tracker) -> None:
    """Different histories in one batch: one from the start, one later and prompted again."""
    plans: dict[int, dict[int, Prompt]] = {1: {0: CLICK}, 2: {3: BOX, 6: CLICK}}
    together = tracker.start_session()
    alone = {object_id: tracker.start_session() for object_id in plans}
    for index in range(12):
        prompts = {object_id: plan[index] for object_id, plan in plans.items() if index in plan}
        result = together.track(clip_frame(index), prompts=prompts)
        for object_id, session in alone.items():
            own = {object_id: prompts[object_id]} if object_id in prompts else None
            expected = session.track(clip_frame(index), prompts=own)
            if object_id not in expected.object_ids:
                continue
            row = result.object_ids.index(object_id)
            np.testing.assert_allclose(result.mask_logits[row], expected.mask_logits[0], atol=1e-3)
            np.testing.assert_allclose(together.object_pointer(object_id), session.object_pointer(object_id), atol=1e-4)


def test_objects_one_by_one_answer_as_in_a_batch(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large models take objects one after the other on a CPU; small ones are told to here."""
    monkeypatch.setattr(onnxruntime_backend, "ONE_BY_ONE_TOKENS", tracker.spec.tokens)
    apart = Tracker.load(tracker.bundle.path, "onnxruntime", provider="cpu", threads=1)
    calls: list[str] = []
    run = apart.backend._run
    monkeypatch.setattr(apart.backend, "_run", lambda graph, *rest: (calls.append(graph), run(graph, *rest)))
    sessions = [one.start_session() for one in (tracker, apart)]
    for index in range(10):
        prompts = {0: {1: CLICK, 2: BOX}, 4: {3: CLICK}, 6: {1: BOX}}.get(index)
        calls.clear()
        batch, single = (session.track(clip_frame(index), prompts) for session in sessions)
        assert batch.object_ids == single.object_ids
        np.testing.assert_allclose(single.mask_logits, batch.mask_logits, atol=1e-3)
        if index == 9:
            assert calls == ["encode", "track", "track", "track"]


def test_removed_object_leaves_the_others_alone(tracker: Tracker) -> None:
    with_third, without = tracker.start_session(), tracker.start_session()
    prompts = {1: CLICK, 2: BOX, 3: Prompt(points=[(30, 30)], labels=[1])}
    with_third.track(clip_frame(0), prompts=prompts)
    without.track(clip_frame(0), prompts={object_id: prompts[object_id] for object_id in (1, 3)})
    for index in range(1, 4):
        with_third.track(clip_frame(index))
        without.track(clip_frame(index))
    with_third.remove(2)
    assert with_third.object_ids == (1, 3)
    # A correction right after the removal still finds the object's own features.
    correction = Prompt(points=[(100, 20)], labels=[0])
    corrected = with_third.refine(3, correction).mask_logits
    np.testing.assert_allclose(corrected, without.refine(3, correction).mask_logits, atol=1e-3)
    for index in range(4, 7):
        result, expected = with_third.track(clip_frame(index)), without.track(clip_frame(index))
        np.testing.assert_allclose(result.mask_logits, expected.mask_logits, atol=1e-3)
    with_third.remove(1)
    with_third.remove(3)
    assert with_third.track(clip_frame(7)).object_ids == ()


def test_refine_changes_the_frame_and_what_follows(tracker: Tracker) -> None:
    corrected, untouched = tracker.start_session(), tracker.start_session()
    for session in (corrected, untouched):
        session.track(clip_frame(0), prompts={1: CLICK, 2: BOX})
        session.track(clip_frame(1))
    before = untouched.track(clip_frame(2))
    corrected.track(clip_frame(2))
    after = corrected.refine(1, Prompt(points=[(100, 20)], labels=[0]))
    assert after.frame_index == before.frame_index
    assert np.abs(after.mask_logits[0] - before.mask_logits[0]).max() > 1e-2
    np.testing.assert_array_equal(after.mask_logits[1], before.mask_logits[1])
    following, unchanged = corrected.track(clip_frame(3)), untouched.track(clip_frame(3))
    assert np.abs(following.mask_logits[0] - unchanged.mask_logits[0]).max() > 1e-3


def test_corrections_can_condition(tracker: Tracker) -> None:
    answers = []
    for condition in (False, True):
        session = tracker.start_session(corrections_condition=condition)
        session.track(clip_frame(0), prompts={1: CLICK})
        session.track(clip_frame(1))
        session.refine(1, Prompt(points=[(100, 20)], labels=[0]))
        answers.append([session.track(clip_frame(index)).mask_logits for index in range(2, 12)])
    assert np.abs(answers[0][-1] - answers[1][-1]).max() > 1e-3


def test_mask_prompt_is_taken_as_it_is(session: Session) -> None:
    mask = np.zeros((96, 150), dtype=bool)
    mask[20:70, 30:110] = True
    result = session.track(clip_frame(0, 96, 150), prompts={1: Prompt(mask=mask)})
    union = (result.masks[0] | mask).sum()
    assert (result.masks[0] & mask).sum() / union > 0.95
    assert (result.object_scores[0], result.ious[0], result.mask_choices[0]) == (10.0, 1.0, -1)
    assert session.track(clip_frame(1, 96, 150)).mask_choices[0] in (1, 2, 3)


def test_holes_of_prompted_masks_are_filled_on_request(tracker: Tracker) -> None:
    pytest.importorskip("cv2")
    from etam_edge.runtimes.holes import fill_holes

    logits = np.ones((32, 32), dtype=np.float32)
    logits[4:6, 4:8] = -1  # 8 pixels
    logits[20:23, 20:23] = -1  # 9 pixels
    filled = fill_holes(logits, 8)
    assert (filled[4:6, 4:8] == np.float32(0.1)).all()
    np.testing.assert_array_equal(filled[20:23, 20:23], logits[20:23, 20:23])
    plain, filling = tracker.start_session(), tracker.start_session(fill_hole_area=400)
    results = [session.track(clip_frame(0), prompts={1: CLICK}).masks[0].sum() for session in (plain, filling)]
    assert results[1] >= results[0]


# --- failures ---


class FailingBackend:
    """Runs a real backend and breaks the nth run of one graph, or answers NaN in its place."""

    def __init__(self, backend: Any, graph: str, nan: bool) -> None:
        self._backend, self._graph, self._nan = backend, graph, nan
        self.name, self.device = backend.name, backend.device
        self.armed = False

    max_objects = None

    def check_objects(self, count: int) -> None:
        self._backend.check_objects(count)

    def close(self) -> None:
        self._backend.close()

    def run(self, graph: str, inputs: Any, outputs: Any) -> None:
        self._backend.run(graph, inputs, outputs)
        if self.armed and graph == self._graph:
            if not self._nan:
                raise EtamError("the graph broke")
            logits = outputs["mask_logits"]
            self.device.upload(np.full(logits.shape, np.nan, dtype=np.float32), logits)


@pytest.mark.parametrize(
    ("graph", "nan"), [("encode", False), ("track", False), ("track", True), ("prompt", True), ("remember", False)]
)
def test_failed_frame_leaves_the_session_as_it_was(graph: str, nan: bool, tracker: Tracker) -> None:
    backend = FailingBackend(tracker.backend, graph, nan)
    failing, untouched = Session(backend, tracker.bundle), tracker.start_session()
    again = {1: BOX, 5: CLICK}
    for index in range(10):
        prompts = {1: CLICK, 2: BOX} if index == 0 else again if index == 8 else None
        if index in (3, 7, 8):  # once with few memories, once with all slots taken, once with prompts
            backend.armed = True
            with pytest.raises(EtamError):
                # A frame with prompts runs every graph.
                failing.track(clip_frame(index), prompts=again)
            backend.armed = False
        same(failing.track(clip_frame(index), prompts=prompts), untouched.track(clip_frame(index), prompts=prompts))
    correction = Prompt(points=[(100, 20)], labels=[0])
    if graph in ("prompt", "remember"):
        backend.armed = True
        with pytest.raises(EtamError):
            failing.refine(2, correction)
        backend.armed = False
    same(failing.refine(2, correction), untouched.refine(2, correction))
    same(failing.track(clip_frame(10)), untouched.track(clip_frame(10)))


BAD_FRAMES = {
    "a list": ([1, 2], "NumPy array, uint8 .* or a PIL image"),
    "float": (np.zeros((128, 128, 3), dtype=np.float32), "uint8"),
    "NaN": (np.full((128, 128, 3), np.nan), "uint8"),
    "grey": (np.zeros((128, 128), dtype=np.uint8), r"\(H, W, 3\)"),
    "RGBA": (np.zeros((128, 128, 4), dtype=np.uint8), r"\(H, W, 3\)"),
    "no rows": (np.zeros((0, 128, 3), dtype=np.uint8), r"\(H, W, 3\)"),
    "another size": (
        np.zeros((120, 128, 3), dtype=np.uint8),
        "128 x 120 pixels and this session's frames are 128 x 128",
    ),
}


@pytest.mark.parametrize("name", BAD_FRAMES)
def test_bad_frame_is_refused(name: str, session: Session) -> None:
    session.track(clip_frame(0), prompts={1: CLICK})
    frame, sentence = BAD_FRAMES[name]
    with pytest.raises(InputError, match=sentence):
        session.track(frame)  # type: ignore[arg-type]
    assert session.track(clip_frame(1)).frame_index == 1


def ones(height: int = 128, width: int = 128) -> np.ndarray:
    return np.ones((height, width), dtype=bool)


BAD_PROMPTS: dict[str, tuple[Any, str]] = {
    "not a prompt": ({"points": [(1, 2)]}, "etam_edge.Prompt"),
    "nothing": (Prompt(), "empty"),
    "no points": (Prompt(points=[], labels=[]), "shape"),
    "points without labels": (Prompt(points=[(1, 2)]), "points without labels"),
    "labels without points": (Prompt(labels=[1]), "labels without points"),
    "too few labels": (Prompt(points=[(1, 2), (3, 4)], labels=[1]), "one label a point"),
    "unknown label": (Prompt(points=[(1, 2)], labels=[2]), "give 1 for on the object"),
    "three coordinates": (Prompt(points=[(1, 2, 3)], labels=[1]), r"\(P, 2\)"),
    "words": (Prompt(points=[("a", "b")], labels=[1]), "not numbers"),
    "NaN": (Prompt(points=[(np.nan, 2)], labels=[1]), "NaN"),
    "outside": (Prompt(points=[(128, 5)], labels=[1]), r"outside the frame, which is 128 x 128"),
    "negative": (Prompt(points=[(-1, 5)], labels=[1]), "outside the frame"),
    "too many": (Prompt(points=[(5, 5)] * 7, labels=[1] * 7), "7 points .* takes 6"),
    "box swapped": (Prompt(box=(90, 90, 10, 10)), "corners swapped"),
    "box empty": (Prompt(box=(10, 10, 10, 20)), "empty"),
    "box outside": (Prompt(box=(130, 10, 140, 20)), "outside the frame"),
    "box of three": (Prompt(box=(1, 2, 3)), "x0, y0, x1, y1"),
    "mask empty": (Prompt(mask=~ones()), "empty"),
    "mask of another size": (Prompt(mask=ones(64, 64)), "shape"),
    "mask of numbers": (Prompt(mask=np.ones((128, 128))), "float64; give a bool array"),
    "mask of grey levels": (
        Prompt(mask=np.arange(128 * 128, dtype=np.uint8).reshape(128, 128)),
        "uint8 with 256 values",
    ),
    "mask as a list": (Prompt(mask=[[True]]), "mask of the prompt of object . is a list"),  # type: ignore[arg-type]
    "mask and box": (Prompt(mask=ones(), box=(1, 2, 3, 4)), "mask alone"),
}


@pytest.mark.parametrize("name", BAD_PROMPTS)
def test_bad_prompt_is_refused(name: str, session: Session) -> None:
    prompt, sentence = BAD_PROMPTS[name]
    with pytest.raises(InputError, match=sentence):
        session.track(clip_frame(0), prompts={1: CLICK, 2: prompt})
    assert session.object_ids == ()
    session.track(clip_frame(0), prompts={1: CLICK})
    with pytest.raises(InputError, match=sentence):
        session.refine(1, prompt)


def test_box_is_cut_off_at_the_frame(tracker: Tracker) -> None:
    results = [
        tracker.start_session().track(clip_frame(0), prompts={1: Prompt(box=box)})
        for box in ((-5, 60, 70, 140), (0, 60, 70, 128))
    ]
    same(*results)


def test_tiny_mask_on_a_large_frame_is_refused(session: Session) -> None:
    mask = np.zeros((1000, 1000), dtype=bool)
    mask[500, 500] = True
    with pytest.raises(InputError, match="too few"):
        session.track(clip_frame(0, 1000, 1000), prompts={1: Prompt(mask=mask)})


def test_unknown_objects_are_refused(session: Session) -> None:
    session.track(clip_frame(0), prompts={1: CLICK})
    for call in (session.remove, session.object_pointer, lambda object_id: session.refine(object_id, CLICK)):
        with pytest.raises(InputError, match=r"object 9 is not tracked here \(objects: 1\)"):
            call(9)
        with pytest.raises(InputError, match="whole number"):
            call("1")
    with pytest.raises(InputError, match="whole number"):
        session.track(clip_frame(1), prompts={True: CLICK})
    with pytest.raises(InputError, match="by object id"):
        session.track(clip_frame(1), prompts=[CLICK])  # type: ignore[arg-type]


def test_too_many_objects_are_refused(tracker: Tracker) -> None:
    session = tracker.start_session(max_objects=2)
    session.track(clip_frame(0), prompts={1: CLICK, 2: BOX})
    with pytest.raises(InputError, match=r"call session\.reserve\(3\)"):
        session.track(clip_frame(1), prompts={3: BOX})
    assert session.track(clip_frame(1)).object_ids == (1, 2)


def test_bad_options_are_refused(tracker: Tracker) -> None:
    for options in ({"max_objects": 0}, {"max_objects": 2.5}, {"fill_hole_area": -1}):
        with pytest.raises(InputError, match="must be a whole number from"):
            tracker.start_session(**options)  # type: ignore[arg-type]
    path = tracker.bundle.path
    with pytest.raises(InputError, match="runtime 'nonsense'"):
        Tracker.load(path, runtime="nonsense")
    with pytest.raises(InputError, match="provider 'tpu'"):
        Tracker.load(path, provider="tpu")
    with pytest.raises(InputError, match="threads"):
        Tracker.load(path, threads=0)


def test_auto_takes_the_cpu_where_cuda_does_not_start(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine with onnxruntime-gpu and no GPU: the provider is listed, and a session comes back without it."""
    ort = onnxruntime_backend.import_onnxruntime()
    if "CUDAExecutionProvider" in ort.get_available_providers():
        pytest.skip("this ONNX Runtime has the CUDA provider")

    def session(path: str, options: Any, providers: list[str]) -> Any:
        return real(path, options, providers=["CPUExecutionProvider"])

    real = ort.InferenceSession
    monkeypatch.setattr(ort, "InferenceSession", session)
    listed = [*ort.get_available_providers(), "CUDAExecutionProvider"]
    monkeypatch.setattr(ort, "get_available_providers", lambda: listed)
    assert Tracker.load(tracker.bundle.path).runtime == "onnxruntime (cpu)"
    with pytest.raises(RuntimeUnavailableError, match="does not start"):
        Tracker.load(tracker.bundle.path, provider="cuda")


def test_missing_provider_is_named(tracker: Tracker) -> None:
    if "CUDAExecutionProvider" in onnxruntime_backend.import_onnxruntime().get_available_providers():
        pytest.skip("this ONNX Runtime has the CUDA provider")
    with pytest.raises(RuntimeUnavailableError, match="onnxruntime-gpu"):
        Tracker.load(tracker.bundle.path, provider="cuda")


# --- state ---


def test_resumed_session_answers_bit_for_bit(tracker: Tracker, tmp_path: Path) -> None:
    session = tracker.start_session(corrections_condition=True, max_objects=3)
    session.track(clip_frame(0), prompts={4: CLICK})
    for index in range(1, 9):
        session.track(clip_frame(index), prompts={6: BOX} if index == 2 else None)
    session.save(tmp_path / "state.npz")
    resumed = tracker.resume_session(tmp_path / "state.npz")
    assert (resumed.frame_index, resumed.object_ids, resumed.max_objects) == (8, (4, 6), 3)
    correction = Prompt(points=[(100, 20)], labels=[0])
    same(resumed.refine(6, correction), session.refine(6, correction))
    for index in range(9, 13):
        same(resumed.track(clip_frame(index)), session.track(clip_frame(index)))
    assert [path.name for path in tmp_path.iterdir()] == ["state.npz"]


def test_lone_memory_survives_resuming(tracker: Tracker, tmp_path: Path) -> None:
    session = tracker.start_session()
    session.track(clip_frame(0), prompts={1: CLICK})
    session.save(tmp_path / "state.npz")
    same(tracker.resume_session(tmp_path / "state.npz").track(clip_frame(1)), session.track(clip_frame(1)))


def test_empty_session_can_be_saved(tracker: Tracker, tmp_path: Path) -> None:
    tracker.start_session().save(tmp_path / "state.npz")
    assert tracker.resume_session(tmp_path / "state.npz").frame_index == -1


def test_bad_state_is_refused(tracker: Tracker, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no saved session at"):
        tracker.resume_session(tmp_path / "missing.npz")
    (tmp_path / "words.npz").write_text("words")
    with pytest.raises(InputError, match="damaged"):
        tracker.resume_session(tmp_path / "words.npz")
    session = tracker.start_session()
    session.track(clip_frame(0), prompts={1: CLICK})
    session.save(tmp_path / "state.npz")
    whole = (tmp_path / "state.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="damaged"):
        tracker.resume_session(tmp_path / "cut.npz")
    with pytest.raises(InputError, match="could not be written"):
        session.save(tmp_path / "no such folder" / "state.npz")


def test_state_of_another_bundle_is_refused(small_bundle: SmallBundleMaker, tmp_path: Path) -> None:
    first, second = (Tracker.load(small_bundle(pooling)) for pooling in (Pooling.NONE, Pooling.KEY_BIAS))
    session = first.start_session()
    session.track(clip_frame(0), prompts={1: CLICK})
    session.save(tmp_path / "state.npz")
    with pytest.raises(InputError, match="another bundle"):
        second.resume_session(tmp_path / "state.npz")


def test_reset_forgets_everything(tracker: Tracker) -> None:
    session, fresh = tracker.start_session(), tracker.start_session()
    for index in range(5):
        session.track(clip_frame(index), prompts={1: CLICK, 2: BOX} if index == 0 else None)
    session.reset()
    assert (session.frame_index, session.object_ids) == (-1, ())
    for index in range(3):
        prompts = {3: Prompt(points=[(30, 40)], labels=[1])} if index == 0 else None
        frame = clip_frame(index, 90, 70)  # another size than before
        same(session.track(frame, prompts=prompts), fresh.track(frame, prompts=prompts))


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the memory in use from /proc")
def test_memory_in_use_is_constant(small_bundle: SmallBundleMaker) -> None:
    tracker = Tracker.load(small_bundle(Pooling.KEY_BIAS), provider="cpu", threads=1)
    session = tracker.start_session(max_objects=2)
    frames = [clip_frame(index) for index in range(20)]
    session.track(frames[0], prompts={1: CLICK, 2: BOX})
    sizes = []
    for index in range(2000):
        session.track(frames[index % 20])
        if index % 500 == 499:
            sizes.append(resident_bytes())
    assert max(sizes) - sizes[0] < 4e6, f"memory in use grew: {sizes}"


def test_device_buffers_behave_as_host_ones(small_bundle: SmallBundleMaker) -> None:
    """The path for devices (ONNX Runtime's allocator, copies by graph), run on the CPU's memory."""
    path = small_bundle(Pooling.SCORE_BIAS)
    host, device = Tracker.load(path, provider="cpu"), Tracker.load(path, provider="cpu")
    device.backend.device = onnxruntime_backend.OrtDevice("cpu")
    sessions = [tracker.start_session(max_objects=2) for tracker in (host, device)]
    for index in range(9):
        prompts = {1: CLICK} if index == 0 else {2: BOX} if index == 4 else None
        same(*(session.track(clip_frame(index), prompts=prompts) for session in sessions))
        if index == 6:
            same(*(session.refine(2, Prompt(points=[(100, 20)], labels=[0])) for session in sessions))
    for session in sessions:
        session.remove(1)
    same(*(session.track(clip_frame(9)) for session in sessions))


# --- surface ---


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_images_are_frames(mode: str, tracker: Tracker) -> None:
    image = Image.fromarray(clip_frame(0)).convert(mode)
    pixels = np.asarray(image.convert("RGB"))
    same(*(tracker.start_session().track(frame, prompts={1: CLICK}) for frame in (image, pixels)))


@pytest.mark.parametrize("marked", [1, 255])
def test_masks_of_bytes_are_masks(marked: int, tracker: Tracker) -> None:
    mask = np.zeros((128, 128), dtype=bool)
    mask[20:70, 30:110] = True
    given = (mask, np.where(mask, np.uint8(marked), np.uint8(0)))
    same(*(tracker.start_session().track(clip_frame(0), prompts={1: Prompt(mask=one)}) for one in given))


def test_number_of_objects_cannot_be_raised_later(session: Session) -> None:
    with pytest.raises(AttributeError):
        session.max_objects = 99  # type: ignore[misc]
    assert session.max_objects == 8


def test_closed_session_is_refused_in_a_sentence(tracker: Tracker, tmp_path: Path) -> None:
    with tracker.start_session() as session:
        session.track(clip_frame(0), prompts={1: CLICK})
        assert session.nbytes > 0
    assert session.nbytes == 0
    assert "closed" in repr(session)
    calls: list[Callable[[], object]] = [
        lambda: session.track(clip_frame(1)),
        lambda: session.refine(1, CLICK),
        lambda: session.remove(1),
        session.reset,
        lambda: session.object_pointer(1),
        lambda: session.save(tmp_path / "state.npz"),
        session.__enter__,
    ]
    for call in calls:
        with pytest.raises(InputError, match="this session is closed"):
            call()
    session.close()


def test_error_in_a_block_closes_the_session(tracker: Tracker) -> None:
    with pytest.raises(RuntimeError, match="robot fell over"), tracker.start_session() as session:
        raise RuntimeError("the robot fell over")
    assert session.nbytes == 0


def test_closed_tracker_ends_its_sessions(tracker: Tracker) -> None:
    with Tracker.load(tracker.bundle.path, "onnxruntime", provider="cpu", threads=1) as loaded:
        session = loaded.start_session()
        session.track(clip_frame(0), prompts={1: CLICK})
    with pytest.raises(EtamError, match="closed; load the bundle again"):
        session.track(clip_frame(1))
    assert session.frame_index == 0
    loaded.close()


def test_pickled_tracker_is_loaded_again(tracker: Tracker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tracker.bundle.path.parent)
    relative = Tracker.load(tracker.bundle.path.name, "onnxruntime", provider="cpu", threads=1)
    stored = pickle.dumps(relative)
    monkeypatch.chdir(tmp_path)
    again = pickle.loads(stored)
    assert again.runtime == tracker.runtime
    same(*(one.start_session().track(clip_frame(0), prompts={1: CLICK}) for one in (tracker, again)))
    with pytest.raises(InputError, match="backend of your own cannot be pickled"):
        pickle.dumps(Tracker(tracker.bundle, tracker.backend))


def test_sessions_are_not_pickled_but_saved(session: Session) -> None:
    for refuse in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(InputError, match=r"session\.save\(path\)"):
            refuse(session)


def test_gpu_index_is_refused_on_the_cpu(tracker: Tracker) -> None:
    path = tracker.bundle.path
    with pytest.raises(InputError, match="device=1 is the index of a GPU, and the provider is 'cpu'"):
        Tracker.load(path, "onnxruntime", provider="cpu", device=1)
    with pytest.raises(InputError, match="device=0 is the index of a GPU, and OpenVINO runs on the CPU"):
        Tracker.load(path, "openvino", device=0)
    for device in (-1, "cuda:1", True):
        with pytest.raises(InputError, match="is not the index of a GPU"):
            Tracker.load(path, device=device)  # type: ignore[arg-type]
    if "CUDAExecutionProvider" not in onnxruntime_backend.import_onnxruntime().get_available_providers():
        with pytest.raises(InputError, match="this ONNX Runtime has no CUDA provider; leave it out"):
            Tracker.load(path, device=0)


def test_gpu_index_reaches_the_provider_and_every_buffer(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with the CUDA provider, on the CPU's memory: its index is recorded."""
    ort = onnxruntime_backend.import_onnxruntime()
    if "CUDAExecutionProvider" in ort.get_available_providers():
        pytest.skip("this ONNX Runtime has the CUDA provider")
    given: list[Any] = []

    class Inference:
        def __init__(self, graph: Any, *options: Any, providers: list[Any]) -> None:
            given.append(providers)
            self._session = real(graph, *options, providers=["CPUExecutionProvider"])

        def __getattr__(self, name: str) -> Any:
            return getattr(self._session, name)

        def get_providers(self) -> list[str]:
            return ["CUDAExecutionProvider"]

    real = ort.InferenceSession
    listed = [*ort.get_available_providers(), "CUDAExecutionProvider"]
    monkeypatch.setattr(ort, "InferenceSession", Inference)
    monkeypatch.setattr(ort, "get_available_providers", lambda: listed)
    loaded = Tracker.load(tracker.bundle.path, device=1)
    assert loaded.runtime == "onnxruntime (cuda:1)"
    assert given == [[("CUDAExecutionProvider", {"device_id": "1"})]] * 5  # four graphs and the copy of the device
    device: Any = loaded.backend.device
    assert (device.kind, device.index) == ("cuda", 1)


class Noted:
    """An observer that records the order of events."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self._open: str | None = None

    def begin(self, stage: str) -> None:
        assert self._open is None, "stages do not overlap"
        self._open = stage
        self.events.append(stage)

    def end(self, stage: str) -> None:
        assert self._open == stage
        self._open = None


def test_observer_receives_every_stage_and_changes_nothing(tracker: Tracker, tmp_path: Path) -> None:
    noted = Noted()
    watched, plain = tracker.start_session(observer=noted), tracker.start_session()
    for index in range(3):
        prompts = {1: CLICK} if index == 0 else None
        noted.events.clear()
        same(watched.track(clip_frame(index), prompts), plain.track(clip_frame(index), prompts))
        stages = list(dict.fromkeys(noted.events))
        graphs = ["prompt", "download", "remember", "masks"] if prompts else ["track", "download", "masks"]
        assert [stage for stage in stages if stage != "store"] == ["resize", "upload", "encode", *graphs]
        assert noted.events[-3:] == ["store"] * 3
    watched.save(tmp_path / "state.npz")
    noted.events.clear()
    resumed = tracker.resume_session(tmp_path / "state.npz", observer=noted)
    assert set(noted.events) == {"upload"}
    same(resumed.track(clip_frame(3)), plain.track(clip_frame(3)))
    assert "track" in noted.events


def test_observer_receives_the_end_of_a_stage_that_failed(tracker: Tracker) -> None:
    noted = Noted()
    failing = FailingBackend(tracker.backend, "track", nan=False)
    session = Session(failing, tracker.bundle, observer=noted)
    session.track(clip_frame(0), prompts={1: CLICK})
    failing.armed = True
    with pytest.raises(EtamError, match="broke"):
        session.track(clip_frame(1))
    failing.armed = False
    assert noted._open is None
    assert session.track(clip_frame(1)).frame_index == 1


def test_sizes_of_the_small_bundles_are_known(tracker: Tracker) -> None:
    assert tracker.bundle.manifest.sizes == SIZES
