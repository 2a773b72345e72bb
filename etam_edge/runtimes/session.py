"""A session: one stream of frames, its objects, and all their memory.

Calls are transactional: everything that can fail is done first, on scratch buffers and new objects, and only then is
the session changed. A call that raises leaves the session as it was. All buffers are allocated when the session starts,
so memory in use does not grow with the length of the stream.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from etam_edge.bundle import Bundle
from etam_edge.errors import InputError
from etam_edge.runtimes.backends.base import Backend
from etam_edge.runtimes.frames import as_frame
from etam_edge.runtimes.holes import fill_holes
from etam_edge.runtimes.memory import ObjectMemory, Placement
from etam_edge.runtimes.observer import MASKS, RESIZE, ObservedBackend, SessionObserver, call
from etam_edge.runtimes.prompts import PreparedPrompt, check_object_id, prepare
from etam_edge.runtimes.resizing import EXACT, choose_resizing
from etam_edge.runtimes.state import SessionState, load_state, save_state
from etam_edge.runtimes.types import FrameResult, Prompt
from etam_edge.runtimes.workspace import DecoderOutput, Workspace

if TYPE_CHECKING:
    from PIL.Image import Image

MASK_SCORE = 10.0
"""Object score of a mask prompt, whose object is visible by definition."""
MASK_CHOICE = -1
"""Mask choice of a mask prompt, for which the decoder's masks are not used."""
DEFAULT_MAX_OBJECTS = 8


class Session:
    """Tracks objects through a stream of frames. `Tracker.start_session` creates it and explains the options.

    A session can be used in a `with` statement, which closes it at the end. It must not be used by two threads at the
    same time.
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
        for name, value, least in (("max_objects", max_objects, 1), ("fill_hole_area", fill_hole_area, 0)):
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
                raise InputError(f"{name} must be a whole number from {least}, not {value!r}")
        self._backend = backend if observer is None else ObservedBackend(backend, observer)
        self._observer = observer
        self._bundle = bundle
        self._spec = bundle.manifest.model
        self._sizes = bundle.manifest.sizes
        self.corrections_condition = corrections_condition
        self._max_objects = int(max_objects)
        self.fill_hole_area = int(fill_hole_area)
        self._resizing = choose_resizing(bundle, resize)
        self._workspace = Workspace(self._backend, bundle, max_objects)
        self._closed = False
        # The position of an id in this dictionary is its row in the workspace.
        self._objects: dict[int, ObjectMemory] = {}
        self._outputs: dict[int, DecoderOutput] = {}
        # Objects that were prompted on the frame just tracked. A correction of them reads no memory, as the prompt did.
        self._prompted: set[int] = set()
        self._frame_index = -1
        self._frame_shape: tuple[int, int] | None = None

    @property
    def frame_index(self) -> int:
        """Index of the frame just tracked; -1 before the first."""
        return self._frame_index

    @property
    def object_ids(self) -> tuple[int, ...]:
        """Ids of the objects being tracked, in the order in which they were first prompted."""
        return tuple(self._objects)

    @property
    def max_objects(self) -> int:
        """Number of objects that the session can hold at a time. Its memory is allocated for this number."""
        return self._max_objects

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers of the session, 0 once it is closed. The model itself is not included."""
        return 0 if self._closed else self._workspace.nbytes

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
        self._check_open()
        pixels = self._check_frame(frame)
        shape = (pixels.shape[0], pixels.shape[1])
        prepared = self._check_prompts({} if prompts is None else prompts, shape)
        new = [object_id for object_id in prepared if object_id not in self._objects]
        objects = {**self._objects, **{object_id: ObjectMemory(self._spec, self._sizes) for object_id in new}}
        if len(objects) > self._max_objects:
            raise InputError(
                f"{len(objects)} objects are more than this session can hold ({self._max_objects}); "
                f"start it with max_objects={len(objects)}, or remove one"
            )
        self._backend.check_objects(len(objects))
        now = self._frame_index + 1
        outputs: dict[int, DecoderOutput] = {}
        placements: dict[int, Placement] = {}
        if objects:
            resized = call(self._observer, RESIZE, lambda: self._resize(pixels))
            self._workspace.encode(resized[None])
            tracked = self._track_unprompted(now, prepared)
            for row, (object_id, memory) in enumerate(objects.items()):
                placement = memory.place(now, conditioning=object_id in prepared)
                placements[object_id] = placement
                if object_id in tracked:
                    outputs[object_id] = tracked[object_id]
                    continue
                outputs[object_id] = self._prompt(row, prepared[object_id], correcting=None, reads_memory=False)
                self._workspace.remember(row, outputs[object_id].mask_logits, correcting=False)
                if object_id in new:
                    # Written before the commit: the slots of a new object hold nothing that a failure could damage.
                    self._workspace.store_unpooled(row, placement)
        result = self._result(now, shape, outputs)

        # The commit: nothing from here on can fail for a reason that the caller could correct.
        for row, (object_id, memory) in enumerate(objects.items()):
            self._workspace.store(row, placements[object_id])
            memory.commit(placements[object_id])
        self._workspace.keep_frame()
        self._objects, self._outputs, self._prompted = objects, outputs, set(prepared)
        self._frame_index, self._frame_shape = now, shape
        return result

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
        self._check_open()
        object_id = check_object_id(object_id)
        memory = self._known(object_id)
        assert self._frame_shape is not None, "objects exist only after the first frame"
        prepared = prepare(prompt, object_id, self._frame_shape, self._spec, self._sizes)
        row, now = self.object_ids.index(object_id), self._frame_index
        prompted = object_id in self._prompted
        output = self._prompt(row, prepared, correcting=self._outputs[object_id], reads_memory=not prompted)
        placement = memory.place(now, conditioning=prompted or self.corrections_condition)
        self._workspace.remember(row, output.mask_logits, correcting=True)
        outputs = {**self._outputs, object_id: output}
        result = self._result(now, self._frame_shape, outputs)

        self._workspace.store(row, placement)
        self._workspace.store_unpooled(row, placement)
        memory.commit(placement)
        self._outputs = outputs
        return result

    def remove(self, object_id: int) -> None:
        """Stop tracking an object and delete its memory.

        Raises:
            InputError: the object is not tracked.
        """
        self._check_open()
        object_id = check_object_id(object_id)
        self._known(object_id)
        for row in range(self.object_ids.index(object_id), len(self._objects) - 1):
            self._workspace.move_row(row + 1, row)
        del self._objects[object_id], self._outputs[object_id]
        self._prompted.discard(object_id)

    def reset(self) -> None:
        """Delete all objects and their memory. The next frame is frame 0 and may have another size.

        Raises:
            InputError: the session is closed.
        """
        self._check_open()
        self._objects, self._outputs, self._prompted = {}, {}, set()
        self._frame_index, self._frame_shape = -1, None

    def object_pointer(self, object_id: int) -> np.ndarray:
        """The object pointer of the frame just tracked, float32 (D,), D the model's width (256 for all variants).

        Raises:
            InputError: the object is not tracked.
        """
        self._check_open()
        object_id = check_object_id(object_id)
        self._known(object_id)
        return self._outputs[object_id].object_pointer.copy()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the session to a .npz file, from which `Tracker.resume_session` continues with bit-identical results.

        The file holds options, memory and the outputs of the last frame, but no frames. It is replaced atomically.

        Raises:
            InputError: the file cannot be written; an existing one is unchanged.
        """
        self._check_open()
        download = self._workspace.device.download
        buffers = self._workspace.kept_state(len(self._objects)) if self._objects else {}
        state = SessionState(
            bundle=self._bundle.identity,
            options=self._options,
            frame_index=self._frame_index,
            frame_shape=self._frame_shape,
            prompted=tuple(self._prompted),
            objects={object_id: memory.to_dict() for object_id, memory in self._objects.items()},
            outputs=self._outputs,
            buffers={name: download(buffer) for name, buffer in buffers.items()},
        )
        save_state(state, path)

    def close(self) -> None:
        """Free the session's buffers. It can no longer be used; calling it again does nothing."""
        if not self._closed:
            self._closed = True
            self._objects, self._outputs, self._prompted = {}, {}, set()
            # Device memory is freed with the last reference to it.
            del self._workspace

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
        state = "closed" if self._closed else f"frame_index={self._frame_index}, object_ids={self.object_ids}"
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
        state = load_state(path)
        if state.bundle != bundle.identity:
            raise InputError(f"{path} was saved with another bundle than {bundle.path}; resume it with its own")
        session = cls(backend, bundle, **state.options, observer=observer)
        for object_id, fields in state.objects.items():
            session._objects[object_id] = ObjectMemory(session._spec, session._sizes)
            session._objects[object_id].restore(fields)
        session._outputs = state.outputs
        session._prompted = set(state.prompted)
        session._frame_index, session._frame_shape = state.frame_index, state.frame_shape
        if state.objects:
            for name, buffer in session._workspace.kept_state(len(state.objects)).items():
                session._workspace.device.upload(state.buffers[name], buffer)
        return session

    # --- implementation ---

    @property
    def _options(self) -> dict[str, Any]:
        return {
            "corrections_condition": self.corrections_condition,
            "max_objects": self._max_objects,
            "fill_hole_area": self.fill_hole_area,
            "resize": self._resizing.name,
        }

    def _resize(self, frame: np.ndarray) -> np.ndarray:
        """The frame as the `encode` graph reads it: contiguous uint8 (S, S, 3), or of the bundle's frame size."""
        if self._sizes.frame_size is not None:
            return np.ascontiguousarray(frame)
        return self._resizing.frame(frame, self._spec.image_size)

    def _track_unprompted(self, now: int, prompted: Mapping[int, object]) -> dict[int, DecoderOutput]:
        """Run the `track` graph for the objects that have no prompt on this frame."""
        rows = {row: object_id for row, object_id in enumerate(self._objects) if object_id not in prompted}
        if not rows:
            return {}
        # One batch up to the last row without a prompt. Rows with a prompt in between are computed and discarded.
        memories = list(self._objects.values())[: max(rows) + 1]
        outputs = self._workspace.track([memory.plan(now) for memory in memories])
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

    def _result(self, index: int, shape: tuple[int, int], outputs: Mapping[int, DecoderOutput]) -> FrameResult:
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

    def _known(self, object_id: int) -> ObjectMemory:
        if object_id not in self._objects:
            known = ", ".join(map(str, self._objects)) or "none"
            raise InputError(f"object {object_id} is not tracked here (objects: {known}); prompt it with track first")
        return self._objects[object_id]

    def _check_open(self) -> None:
        if self._closed:
            raise InputError("this session is closed; start another one with tracker.start_session()")

    def _check_frame(self, frame: np.ndarray | Image) -> np.ndarray:
        where = f"frame {self._frame_index + 1}"
        pixels = as_frame(frame, where)
        shape = (pixels.shape[0], pixels.shape[1])
        if self._frame_shape is not None and shape != self._frame_shape:
            height, width = self._frame_shape
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
