"""A session is before a call or after it: whatever interrupts the call, whoever else calls, whatever a graph writes."""

from __future__ import annotations

import gc
import hashlib
import inspect
import os
import random
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from conftest import SmallBundleMaker

from etam_edge import Prompt, Session, Tracker
from etam_edge.errors import InputError, NotFiniteError
from etam_edge.runtimes import one_at_a_time
from etam_edge.runtimes.workspace import all_finite
from etam_edge.spec import Pooling
from etam_edge_testing.fuzz import FACTOR
from etam_edge_testing.small import clip_frame

pytest.importorskip("onnxruntime")

CLICK = Prompt(points=[(64, 88)], labels=[1])
BOX = Prompt(box=(20, 30, 90, 100))
CORRECTION = Prompt(points=[(100, 20)], labels=[0])
ROOM = str(Path(inspect.getfile(Session)).parent)
CALLS: dict[str, Callable[[Session], object]] = {
    "track": lambda session: session.track(clip_frame(4)),
    "track with prompts": lambda session: session.track(clip_frame(4), {2: CLICK, 9: BOX}),
    "refine": lambda session: session.refine(2, CORRECTION),
    "remove": lambda session: session.remove(1),
    "reset": lambda session: session.reset(),
}


@pytest.fixture(scope="module")
def tracker(small_bundle: SmallBundleMaker) -> Tracker:
    return Tracker.load(small_bundle(Pooling.SCORE_BIAS), "onnxruntime", provider="cpu", threads=1)


@pytest.fixture
def saved(tracker: Tracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three objects of different history, after four frames."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    session = tracker.start_session(max_objects=4)
    for index in range(4):
        session.track(clip_frame(index), {0: {1: CLICK, 2: BOX}, 3: {5: CLICK}}.get(index))
    session.save(tmp_path / "state.npz")
    return tmp_path / "state.npz"


def digest(session: Session, folder: Path) -> str:
    """SHA-256 of everything that the session's later results depend on, as it saves it."""
    session.save(folder / "digest.npz")
    whole = hashlib.sha256()
    with np.load(folder / "digest.npz") as file:
        for name in file.files:
            whole.update(name.encode() + file[name].tobytes())
    return whole.hexdigest()


class Interruption:
    """Raises KeyboardInterrupt at one of the places where Python code of the runtime can be interrupted.

    Args:
        at: number of the place, from 0; -1 for none.
        opcodes: whether every instruction is a place, and not every line.
    """

    def __init__(self, at: int, opcodes: bool) -> None:
        self.places = 0
        self._at, self._opcodes = at, opcodes

    def __enter__(self) -> Interruption:
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _trace(self, frame: FrameType, event: str, _: object) -> Any:
        if not frame.f_code.co_filename.startswith(ROOM):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = self._opcodes, not self._opcodes
        if event in ("line", "opcode"):
            self.places += 1
            if self.places == self._at + 1:
                sys.settrace(None)
                raise KeyboardInterrupt
        return self._trace


@pytest.mark.parametrize("name", CALLS)
def test_interrupted_call_is_undone_or_done(name: str, tracker: Tracker, saved: Path, tmp_path: Path) -> None:
    """At lines by default, at instructions with ETAM_EDGE_FUZZ; those of the commit, at the end, are all tried."""
    call, opcodes = CALLS[name], FACTOR > 1
    done = tracker.resume_session(saved)
    before = digest(done, tmp_path)
    with Interruption(-1, opcodes) as dry:
        call(done)
    after = digest(done, tmp_path)
    assert before != after
    chosen = random.Random(name).sample(range(dry.places), min(dry.places, 12 * FACTOR))
    ends = []
    for place in sorted({*chosen, *range(max(0, dry.places - 25 * min(FACTOR, 12)), dry.places)}):
        session = tracker.resume_session(saved)
        with pytest.raises(KeyboardInterrupt), Interruption(place, opcodes):
            call(session)
        found = digest(session, tmp_path)
        ends.append(found)
        assert found in (before, after), f"torn by an interruption at place {place} of {dry.places}"
        assert (session.object_ids, session.frame_index) == (
            (done.object_ids, done.frame_index) if found == after else ((1, 2, 5), 3)
        )
        session.track(clip_frame(5))
    print(f"{name}: {ends.count(before)} undone and {ends.count(after)} done, of {dry.places} places")
    assert {before, after} == set(ends)


def test_interrupted_call_can_be_called_again(tracker: Tracker, saved: Path, tmp_path: Path) -> None:
    """Twice interrupted, while it is committed and while the next call finishes that."""
    interrupted, plain = tracker.resume_session(saved), tracker.resume_session(saved)
    plain.track(clip_frame(4))
    copies = 0

    def copy(source: Any, target: Any) -> None:
        nonlocal copies
        copies += 1
        if copies in (3, 8):
            raise KeyboardInterrupt
        real(source, target)

    device = interrupted._workspace.device
    real = device.copy
    device.copy = copy  # type: ignore[method-assign]
    try:
        with pytest.raises(KeyboardInterrupt):
            interrupted.track(clip_frame(4))
        assert interrupted.frame_index == 4
        with pytest.raises(KeyboardInterrupt):
            interrupted.track(clip_frame(5))
        assert interrupted.frame_index == 4
    finally:
        del device.copy
    assert digest(interrupted, tmp_path) == digest(plain, tmp_path)


# --- one call at a time ---


class Waiting:
    """An observer that holds a session in the middle of a call."""

    def __init__(self) -> None:
        self.arrived, self.go_on = threading.Event(), threading.Event()

    def begin(self, stage: str) -> None:
        if stage == "encode":
            self.arrived.set()
            self.go_on.wait(30)

    def end(self, stage: str) -> None:
        pass


def test_second_thread_is_refused_and_does_not_wait(tracker: Tracker, tmp_path: Path) -> None:
    waiting = Waiting()
    session, plain = tracker.start_session(observer=waiting), tracker.start_session()
    thread = threading.Thread(target=session.track, args=(clip_frame(0), {1: CLICK}))
    thread.start()
    try:
        assert waiting.arrived.wait(30)
        calls: list[Callable[[], object]] = [
            lambda: session.track(clip_frame(0)),
            lambda: session.refine(1, CLICK),
            lambda: session.remove(1),
            session.reset,
            lambda: session.object_pointer(1),
            lambda: session.save(tmp_path / "state.npz"),
            session.close,
        ]
        for call in calls:
            with pytest.raises(InputError, match=r"this session is in use by another call.*one thread at a time"):
                call()
        assert (session.frame_index, session.object_ids) == (-1, ())
    finally:
        waiting.go_on.set()
        thread.join()
    plain.track(clip_frame(0), {1: CLICK})
    np.testing.assert_array_equal(session.track(clip_frame(1)).mask_logits, plain.track(clip_frame(1)).mask_logits)


def test_two_threads_at_random_leave_a_stream_in_order(tracker: Tracker) -> None:
    """Both track as fast as they can: frames that were accepted are numbered without gaps and computed as by one."""
    session, plain = tracker.start_session(), tracker.start_session()
    for one in (session, plain):
        one.track(clip_frame(0), {1: CLICK})
    accepted: list[tuple[int, int, np.ndarray]] = []
    refused = []

    def work(first: int) -> None:
        for frame in range(first, first + 30 * FACTOR):
            try:
                result = session.track(clip_frame(frame))
            except InputError as error:
                refused.append(str(error))
            else:
                accepted.append((result.frame_index, frame, result.mask_logits))

    threads = [threading.Thread(target=work, args=(first,)) for first in (1, 1000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(f"{len(accepted)} accepted, {len(refused)} refused")
    assert refused
    assert accepted
    accepted.sort(key=lambda one: one[0])
    assert [index for index, _, _ in accepted] == list(range(1, len(accepted) + 1))
    for _, frame, logits in accepted:
        np.testing.assert_array_equal(plain.track(clip_frame(frame)).mask_logits, logits)


def test_call_from_within_a_call_is_refused(tracker: Tracker) -> None:
    class Calling:
        def __init__(self) -> None:
            self.refusals: list[str] = []

        def begin(self, stage: str) -> None:
            if stage == "encode":
                with pytest.raises(InputError, match="in an observer") as caught:
                    session.reset()
                self.refusals.append(str(caught.value))

        def end(self, stage: str) -> None:
            pass

    calling = Calling()
    session = tracker.start_session(observer=calling)
    assert session.track(clip_frame(0), {1: CLICK}).object_ids == (1,)
    assert len(calling.refusals) == 1


def test_record_that_an_interruption_left_behind_is_forgotten(
    tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = tracker.start_session()

    class Kept(dict[FrameType, None]):
        def pop(self, *_: object) -> None:  # type: ignore[override]
            raise KeyboardInterrupt

    session._calls = Kept()
    with pytest.raises(KeyboardInterrupt):
        session.track(clip_frame(0))
    left = dict(session._calls)
    assert len(left) == 1
    assert one_at_a_time._has_ended(next(iter(left)))
    session._calls = left
    assert session.track(clip_frame(1)).frame_index == 1
    assert not session._calls


def test_call_keeps_nothing_alive(tracker: Tracker) -> None:
    """Without the garbage collector: a frame and a session are freed with the last reference."""
    session = tracker.start_session(max_objects=1)
    frame = clip_frame(0)
    kept = weakref.ref(frame), weakref.ref(session._workspace)
    gc.disable()
    try:
        session.track(frame, {1: CLICK})
        with pytest.raises(InputError):
            session.track(frame[:5], {1: CLICK})
        session.close()
        del frame, session
        assert [one() for one in kept] == [None, None]
    finally:
        gc.enable()


# --- NaN ---


class PoisoningBackend:
    """Runs a real backend, and writes NaN or infinity into one place of one output."""

    def __init__(self, backend: Any, graph: str, output: str, value: float) -> None:
        self._backend, self._graph, self._output, self._value = backend, graph, output, value
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
            values = self.device.download(outputs[self._output])
            values.reshape(-1)[-1] = self._value
            self.device.upload(values, outputs[self._output])


@pytest.mark.parametrize("value", [np.nan, -np.inf])
@pytest.mark.parametrize(
    ("graph", "output"),
    [
        ("remember", "memory_keys"),
        ("remember", "memory_values"),
        ("remember", "unpooled_keys"),
        ("remember", "unpooled_values"),
        ("track", "memory_keys"),
        ("track", "memory_values"),
        ("track", "object_pointer"),
    ],
)
def test_memory_that_is_not_finite_is_refused(
    graph: str, output: str, value: float, tracker: Tracker, tmp_path: Path
) -> None:
    backend = PoisoningBackend(tracker.backend, graph, output, value)
    poisoned, plain = Session(backend, tracker.bundle), tracker.start_session()
    for session in (poisoned, plain):
        session.track(clip_frame(0), {1: CLICK, 2: BOX})
    calls: list[Callable[[], object]] = [lambda: poisoned.track(clip_frame(1), {2: CLICK, 7: BOX})]
    if graph == "remember":
        calls.append(lambda: poisoned.refine(1, CORRECTION))
    backend.armed = True
    for call in calls:
        with pytest.raises(NotFiniteError, match=f"output {output} is NaN or infinite, and the frame was rejected"):
            call()
    backend.armed = False
    assert digest(poisoned, tmp_path) == digest(plain, tmp_path)
    for index in range(1, 9):
        results = [session.track(clip_frame(index)).mask_logits for session in (poisoned, plain)]
        np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_one_number_among_many_is_found(dtype: type) -> None:
    values = np.full((3, 1000), np.finfo(dtype).max, dtype=dtype)
    assert all_finite(values)
    for wrong in (np.nan, np.inf, -np.inf):
        for place in (0, 1500, 2999):
            values.reshape(-1)[place] = wrong
            assert not all_finite(values)
            values.reshape(-1)[place] = 0
