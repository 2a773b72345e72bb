"""A session: one stream of frames, its objects, and all their memory.

Calls are transactional: everything that can fail is done first, on scratch buffers and new objects, and only then is
the session changed, by one assignment. A call that raises leaves the session as it was.

An exception that a signal handler raises (Ctrl-C) can arrive anywhere. Before the assignment the session is as it was;
after it, the call is done: what remains to be written to device memory is part of the new state, and the next call
writes it, from the beginning, if this one was interrupted.

All buffers are allocated when the session starts, so memory in use does not grow with the length of the stream.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from etam_edge.bundle import Bundle
from etam_edge.errors import InputError, shown
from etam_edge.runtimes.backends.base import Backend
from etam_edge.runtimes.frames import as_frame
from etam_edge.runtimes.holes import fill_holes
from etam_edge.runtimes.memory import ObjectMemory
from etam_edge.runtimes.observer import MASKS, RESIZE, ObservedBackend, SessionObserver, call
from etam_edge.runtimes.one_at_a_time import OneAtATime, one_at_a_time
from etam_edge.runtimes.prompts import PreparedPrompt, check_object_id, prepare
from etam_edge.runtimes.resizing import EXACT, choose_resizing
from etam_edge.runtimes.state import SavedObject, SessionOptions, SessionState, load_state, save_state
from etam_edge.runtimes.types import FrameResult, Prompt
from etam_edge.runtimes.workspace import DecoderOutput, Workspace

if TYPE_CHECKING:
    from PIL.Image import Image

MASK_SCORE = 10.0
"""Object score of a mask prompt, whose object is visible by definition."""
MASK_CHOICE = -1
"""Mask choice of a mask prompt, for which the decoder's masks are not used."""
DEFAULT_MAX_OBJECTS = 8
MAX_OBJECTS = 1024
"""More objects in one session are taken for a typing mistake."""
MAX_HOLE_AREA = 1 << 24
"""Pixels of the largest mask at resolution S/4 that a model has."""


@dataclass(frozen=True)
class _TrackedObject:
    """One object on the last frame.

    Attributes:
        row: of the workspace. The rows of n objects are 0 to n - 1, in any order.
        memory: which frames are in which slots.
        output: of the decoder.
        prompted: whether the object was prompted on this frame. A correction then reads no memory, as the prompt did.
    """

    row: int
    memory: ObjectMemory
    output: DecoderOutput
    prompted: bool


@dataclass(frozen=True)
class _State:
    """What a session is after a call. It is replaced as a whole.

    Attributes:
        objects: by id, in the order in which they were first prompted.
        frame_index: of the last frame; -1 before the first.
        frame_shape: (H, W) of the frames; None before the first.
        kept: which of the workspace's two frames is the last one.
        unfinished: what has to be written to device memory for this state to hold, in order. It is empty once that has
            been done. Writing all of it again gives the same.
    """

    objects: Mapping[int, _TrackedObject] = field(default_factory=dict)
    frame_index: int = -1
    frame_shape: tuple[int, int] | None = None
    kept: int = 0
    unfinished: list[Callable[[], None]] = field(default_factory=list)


class Session(OneAtATime):
    """Tracks objects through a stream of frames. `Tracker.start_session` creates it and explains the options.

    A session can be used in a `with` statement, which closes it at the end. One call runs at a time: a second one, from
    another thread, is refused with an InputError and does not wait.

    A call that Ctrl-C interrupts (or another exception of a signal handler) leaves the session as it was before the
    call or as it is after it, never in between; `frame_index` and `object_ids` say which.
    """

    def __init__(
        self,
        backend: Backend,
        bundle: Bundle,
        corrections_condition: bool = False,
        max_objects: int = DEFAULT_MAX_OBJECTS,
        fill_hole_area: int = 0,
        resize: str = EXACT,
        observer: SessionObserver | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(corrections_condition, bool | np.bool_):
            raise InputError(f"corrections_condition must be true or false, not {shown(corrections_condition)}")
        for name, value, least, most in (
            ("max_objects", max_objects, 1, MAX_OBJECTS),
            ("fill_hole_area", fill_hole_area, 0, MAX_HOLE_AREA),
        ):
            _check_whole(name, value, least, most)
        self._backend = backend if observer is None else ObservedBackend(backend, observer)
        self._observer = observer
        self._bundle = bundle
        self._spec = bundle.manifest.model
        self._sizes = bundle.manifest.sizes
        self.corrections_condition = bool(corrections_condition)
        self._max_objects = int(max_objects)
        self.fill_hole_area = int(fill_hole_area)
        self._resizing = choose_resizing(bundle, resize)
        self._workspace = Workspace(self._backend, bundle, self._max_objects)
        self._closed = False
        self._state = _State()

    @property
    def frame_index(self) -> int:
        """Index of the frame just tracked; -1 before the first."""
        return self._state.frame_index

    @property
    def object_ids(self) -> tuple[int, ...]:
        """Ids of the objects being tracked, in the order in which they were first prompted."""
        return tuple(self._state.objects)

    @property
    def max_objects(self) -> int:
        """Number of objects that the session can hold at a time. Its memory is allocated for this number."""
        return self._max_objects

    @one_at_a_time
    def reserve(self, max_objects: int) -> None:
        """Make room for more objects without a restart. What is tracked goes on as before.

        This is the only call that changes the session's memory: buffers for the new number are allocated, what is kept
        is copied into them, and the old ones are freed. Where there is room already, nothing is done.

        Args:
            max_objects: number of objects that the session can hold from now on.

        Raises:
            InputError: the number is out of range.
            EtamError: there is not enough memory for it. The session is unchanged.
        """
        state = self._ready()
        _check_whole("max_objects", max_objects, 1, MAX_OBJECTS)
        if max_objects <= self._max_objects:
            return
        larger = Workspace(self._backend, self._bundle, int(max_objects))
        larger.keep(state.kept)
        count = len(state.objects)
        for name, buffer in self._workspace.kept_state(count).items() if count else ():
            self._workspace.device.copy(buffer, larger.kept_state(count)[name])
        self._workspace, self._max_objects = larger, int(max_objects)

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers of the session, 0 once it is closed. The model itself is not included."""
        return 0 if self._closed else self._workspace.nbytes

    @one_at_a_time
    def track(self, frame: np.ndarray | Image, prompts: Mapping[int, Prompt] | None = None) -> FrameResult:
        """Track all objects on the next frame.

        A prompt makes this frame a conditioning frame of its object: the object is segmented from the prompt alone,
        without reading its memory, as in the reference. Before the first prompt there is nothing to track, and the
        result holds no objects.

        Args:
            frame: uint8 (H, W, 3) RGB, or a PIL image, which is converted to RGB. All frames of a session have the same
                size; a bundle exported with a frame size accepts only that one.
            prompts: by object id. A new id starts a new object, a known id prompts its object again.

        Returns:
            the result for all objects, those prompted on this frame included.

        Raises:
            InputError: the frame or a prompt cannot be used. The session is unchanged.
            EtamError: a graph failed, or (NotFiniteError) its output is NaN or infinite. The session is unchanged.
        """
        state = self._ready()
        pixels = self._check_frame(frame)
        shape = (pixels.shape[0], pixels.shape[1])
        prepared = self._check_prompts({} if prompts is None else prompts, shape)
        new = [object_id for object_id in prepared if object_id not in state.objects]
        count = len(state.objects) + len(new)
        if count > self._max_objects:
            remedy = f"call session.reserve({count}), or remove one" if count <= MAX_OBJECTS else "prompt fewer"
            raise InputError(f"{count} objects are more than this session can hold ({self._max_objects}); {remedy}")
        now = state.frame_index + 1
        objects: dict[int, _TrackedObject] = {}
        writes: list[Callable[[], None]] = []
        if count:
            resized = call(self._observer, RESIZE, lambda: self._resize(pixels))
            self._workspace.encode(resized[None])
            tracked = self._track_unprompted(state, now, prepared)
            memories = {object_id: (known.row, known.memory) for object_id, known in state.objects.items()}
            for row, object_id in enumerate(new, start=len(state.objects)):
                memories[object_id] = row, ObjectMemory(self._spec, self._sizes)
            for object_id, (row, memory) in memories.items():
                prompted = object_id in prepared
                placement = memory.place(now, conditioning=prompted)
                if prompted:
                    output = self._prompt(row, prepared[object_id], correcting=None, reads_memory=False)
                    self._workspace.remember(row, output.mask_logits, correcting=False)
                    if object_id in new:
                        # Written before the commit: no object has this row yet.
                        self._workspace.store_unpooled(row, placement)
                else:
                    output = tracked[object_id]
                objects[object_id] = _TrackedObject(row, memory.after(placement), output, prompted)
                writes.append(partial(self._workspace.store, row, placement))
        result = self._result(now, shape, objects)
        kept = 1 - state.kept
        writes.append(partial(self._workspace.keep, kept))
        self._commit(_State(objects, now, shape, kept, writes))
        return result

    @one_at_a_time
    def refine(self, object_id: int, prompt: Prompt) -> FrameResult:
        """Correct one object on the frame just tracked.

        The decoder receives the same features as before, the new clicks and its previous mask logits (clamped to
        +-32), as in the reference; a mask prompt replaces the mask. The frame's memory is written again, as a
        conditioning frame if the session was started with `corrections_condition=True`.

        Returns:
            the frame's result for all objects.

        Raises:
            InputError: the object is not tracked, or the prompt cannot be used. The session is unchanged.
            EtamError: a graph failed, or (NotFiniteError) its output is NaN or infinite. The session is unchanged.
        """
        state = self._ready()
        object_id = check_object_id(object_id)
        known = self._known(object_id)
        shape, now, row = self._last_shape(), state.frame_index, known.row
        prepared = prepare(prompt, object_id, shape, self._spec, self._sizes)
        output = self._prompt(row, prepared, correcting=known.output, reads_memory=not known.prompted)
        placement = known.memory.place(now, conditioning=known.prompted or self.corrections_condition)
        self._workspace.remember(row, output.mask_logits, correcting=True)
        corrected = replace(known, memory=known.memory.after(placement), output=output)
        objects = {**state.objects, object_id: corrected}
        result = self._result(now, shape, objects)
        writes: list[Callable[[], None]] = [
            partial(self._workspace.store, row, placement),
            partial(self._workspace.store_unpooled, row, placement),
        ]
        self._commit(replace(state, objects=objects, unfinished=writes))
        return result

    @one_at_a_time
    def remove(self, object_id: int) -> None:
        """Stop tracking an object and delete its memory.

        Raises:
            InputError: the object is not tracked.
        """
        state = self._ready()
        object_id = check_object_id(object_id)
        row = self._known(object_id).row
        # The object in the last row moves to the one that becomes free, so that rows stay without gaps.
        last = len(state.objects) - 1
        objects = {
            other: replace(tracked, row=row) if tracked.row == last else tracked
            for other, tracked in state.objects.items()
            if other != object_id
        }
        writes: list[Callable[[], None]] = [partial(self._workspace.move_row, last, row)] if row != last else []
        self._commit(replace(state, objects=objects, unfinished=writes))

    @one_at_a_time
    def reset(self) -> None:
        """Delete all objects and their memory. The next frame is frame 0 and may have another size.

        Raises:
            InputError: the session is closed.
        """
        self._commit(_State(kept=self._ready().kept))

    @one_at_a_time
    def object_pointer(self, object_id: int) -> np.ndarray:
        """The object pointer of the frame just tracked, float32 (D,), D the model's width (256 for all variants).

        Raises:
            InputError: the object is not tracked.
        """
        self._check_open()
        object_id = check_object_id(object_id)
        return self._known(object_id).output.object_pointer.copy()

    @one_at_a_time
    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the session to a .npz file, from which `Tracker.resume_session` continues with bit-identical results.

        The file holds options, memory and the outputs of the last frame, but no frames. It is replaced atomically.

        Raises:
            InputError: the file cannot be written; an existing one is unchanged.
        """
        state = self._ready()
        download = self._workspace.device.download
        buffers = self._workspace.kept_state(len(state.objects)) if state.objects else {}
        saved = SessionState(
            bundle=self._bundle.identity,
            options=SessionOptions(
                self.corrections_condition, self._max_objects, self.fill_hole_area, self._resizing.name
            ),
            frame_index=state.frame_index,
            frame_shape=state.frame_shape,
            objects={
                object_id: SavedObject(one.row, one.memory, one.output, one.prompted)
                for object_id, one in state.objects.items()
            },
            buffers={name: download(buffer) for name, buffer in buffers.items()},
        )
        save_state(saved, path)

    @one_at_a_time
    def close(self) -> None:
        """Free the session's buffers. It can no longer be used; calling it again does nothing."""
        if not self._closed:
            self._closed = True
            # Device memory is freed with the last reference to it.
            self._state = _State()
            vars(self).pop("_workspace", None)

    def __enter__(self) -> Session:
        self._check_open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        """
        Raises:
            InputError: always; device memory cannot be pickled.
        """
        raise InputError(
            "a session holds device memory and cannot be pickled or copied; write it with session.save(path) and "
            "continue with tracker.resume_session(path)"
        )

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"frame_index={self.frame_index}, object_ids={self.object_ids}"
        return f"Session({state}, max_objects={self._max_objects})"

    @classmethod
    def resume(
        cls,
        backend: Backend,
        bundle: Bundle,
        path: str | os.PathLike[str],
        observer: SessionObserver | None = None,
    ) -> Session:
        """The session that `save` wrote.

        Raises:
            InputError: the file is missing, damaged, or was saved with another bundle.
        """
        saved = load_state(path, bundle)
        session = cls(backend, bundle, **asdict(saved.options), observer=observer)
        for name, buffer in session._workspace.kept_state(len(saved.objects)).items() if saved.objects else ():
            session._workspace.device.upload(saved.buffers[name], buffer)
        objects = {
            object_id: _TrackedObject(one.row, one.memory, one.output, one.prompted)
            for object_id, one in saved.objects.items()
        }
        session._state = _State(objects, saved.frame_index, saved.frame_shape)
        return session

    # --- implementation ---

    def _ready(self) -> _State:
        """The session's state, once all of it has been written.

        Raises:
            InputError: the session is closed.
        """
        self._check_open()
        self._finish()
        return self._state

    def _commit(self, state: _State) -> None:
        """Replace the state. From the assignment on the call is done, whatever interrupts it."""
        self._state = state
        self._finish()

    def _finish(self) -> None:
        for write in self._state.unfinished:
            write()
        self._state.unfinished.clear()

    def _resize(self, frame: np.ndarray) -> np.ndarray:
        """The frame as the `encode` graph reads it: contiguous uint8 (S, S, 3), or of the bundle's frame size."""
        if self._sizes.frame_size is not None:
            return np.ascontiguousarray(frame)
        return self._resizing.frame(frame, self._spec.image_size)

    def _track_unprompted(self, state: _State, now: int, prompted: Mapping[int, object]) -> dict[int, DecoderOutput]:
        """Run the `track` graph for the objects that have no prompt on this frame."""
        rows = {known.row: object_id for object_id, known in state.objects.items() if object_id not in prompted}
        if not rows:
            return {}
        # One batch up to the last row without a prompt. Rows with a prompt in between are computed and discarded.
        memories = {known.row: known.memory for known in state.objects.values()}
        outputs = self._workspace.track([memories[row].plan(now) for row in range(max(rows) + 1)])
        return {object_id: outputs[row] for row, object_id in rows.items()}

    def _prompt(
        self, row: int, prompt: PreparedPrompt, correcting: DecoderOutput | None, reads_memory: bool
    ) -> DecoderOutput:
        output = self._workspace.prompt(row, prompt, correcting, reads_memory)
        if prompt.mask_logits is not None:
            return replace(
                output, mask_logits=prompt.mask_logits, iou=1.0, object_score=MASK_SCORE, mask_choice=MASK_CHOICE
            )
        if self.fill_hole_area:
            return replace(output, mask_logits=fill_holes(output.mask_logits, self.fill_hole_area))
        return output

    def _result(self, index: int, shape: tuple[int, int], objects: Mapping[int, _TrackedObject]) -> FrameResult:
        outputs = {object_id: one.output for object_id, one in objects.items()}
        return call(self._observer, MASKS, lambda: self._assemble(index, shape, outputs))

    def _assemble(self, index: int, shape: tuple[int, int], outputs: Mapping[int, DecoderOutput]) -> FrameResult:
        size = self._spec.mask_size
        decoded = list(outputs.values())
        logits = np.array([output.mask_logits for output in decoded], dtype=np.float32).reshape(-1, size, size)
        return FrameResult(
            frame_index=index,
            object_ids=tuple(outputs),
            masks=self._masks(decoded, logits, shape),
            mask_logits=logits,
            object_scores=np.array([output.object_score for output in decoded], dtype=np.float32),
            ious=np.array([output.iou for output in decoded], dtype=np.float32),
            mask_choices=np.array([output.mask_choice for output in decoded], dtype=np.int32),
        )

    def _masks(self, outputs: Sequence[DecoderOutput], logits: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        """bool (N, H, W) at frame size.

        The `track` graph of a bundle with a frame size enlarges masks itself. Those of prompted objects come from the
        `prompt` graph or from the user, and are enlarged on the host.
        """
        rows = [row for row, output in enumerate(outputs) if output.mask is None]
        if len(rows) == len(outputs):
            return self._resizing.masks(logits, *shape)
        masks = np.empty((len(outputs), *shape), dtype=bool)
        masks[rows] = self._resizing.masks(logits[rows], *shape)
        for mask, output in zip(masks, outputs, strict=True):
            if output.mask is not None:
                mask[...] = output.mask
        return masks

    def _known(self, object_id: int) -> _TrackedObject:
        objects = self._state.objects
        if object_id not in objects:
            known = ", ".join(map(str, objects)) or "none"
            raise InputError(f"object {object_id} is not tracked here (objects: {known}); prompt it with track first")
        return objects[object_id]

    def _last_shape(self) -> tuple[int, int]:
        shape = self._state.frame_shape
        if shape is None:
            raise InputError("no frame has been tracked; call track first")
        return shape

    def _check_open(self) -> None:
        if self._closed:
            raise InputError("this session is closed; start another one with tracker.start_session()")

    def _check_frame(self, frame: np.ndarray | Image) -> np.ndarray:
        where = f"frame {self._state.frame_index + 1}"
        pixels = as_frame(frame, where)
        shape = (pixels.shape[0], pixels.shape[1])
        if self._state.frame_shape is not None and shape != self._state.frame_shape:
            height, width = self._state.frame_shape
            raise InputError(
                f"{where} is {shape[1]} x {shape[0]} pixels and this session's frames are {width} x {height}; "
                "resize it, or start another session"
            )
        self._bundle.check_frame_shape(shape, where)
        return pixels

    def _check_prompts(self, prompts: Mapping[int, Prompt], shape: tuple[int, int]) -> dict[int, PreparedPrompt]:
        if not isinstance(prompts, Mapping):
            raise InputError("prompts are given by object id, for example {1: Prompt(points=[(x, y)], labels=[1])}")
        return {
            check_object_id(object_id): prepare(prompt, object_id, shape, self._spec, self._sizes)
            for object_id, prompt in prompts.items()
        }


def _check_whole(name: str, value: object, least: int, most: int) -> None:
    """
    Raises:
        InputError: it is not a whole number in this range.
    """
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or not least <= value <= most:  # type: ignore[operator]
        raise InputError(f"{name} must be a whole number from {least} to {most}, not {shown(value)}")
