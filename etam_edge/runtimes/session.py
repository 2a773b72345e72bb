"""A session: one stream of frames, its objects, and all their memory.

A frame counts only when all of it has succeeded; one that fails leaves the session as it was. All buffers are allocated
when the session starts, so a stream may run for days.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from etam_edge.bundle import Bundle
from etam_edge.errors import InputError
from etam_edge.runtimes.backends.base import Backend
from etam_edge.runtimes.holes import fill_holes
from etam_edge.runtimes.memory import ObjectMemory, Placement
from etam_edge.runtimes.prompts import PreparedPrompt, check_object_id, prepare
from etam_edge.runtimes.resizing import EXACT, choose_resizing
from etam_edge.runtimes.state import SessionState, load_state, save_state
from etam_edge.runtimes.types import FrameResult, Prompt
from etam_edge.runtimes.workspace import DecoderOutput, Workspace

MASK_SCORE = 10.0
"""Object score of a mask prompt, which is visible by definition."""
MASK_CHOICE = -1
DEFAULT_MAX_OBJECTS = 8


class Session:
    """Tracks objects through a stream of frames. Made by `Tracker.start_session`, which explains the options."""

    def __init__(
        self,
        backend: Backend,
        bundle: Bundle,
        corrections_condition: bool = False,
        max_objects: int = DEFAULT_MAX_OBJECTS,
        fill_hole_area: int = 0,
        resize: str = EXACT,
    ) -> None:
        if max_objects < 1:
            raise InputError(f"max_objects must be at least 1, not {max_objects}")
        if fill_hole_area < 0:
            raise InputError(f"fill_hole_area must not be negative, it is {fill_hole_area}")
        self._backend = backend
        self._bundle = bundle
        self._spec = bundle.manifest.model
        self._sizes = bundle.manifest.sizes
        self.corrections_condition = corrections_condition
        self.max_objects = max_objects
        self.fill_hole_area = fill_hole_area
        self._resizing = choose_resizing(bundle, resize)
        self._workspace = Workspace(backend, bundle, max_objects)
        # The position of an id in this dictionary is its row in the workspace.
        self._objects: dict[int, ObjectMemory] = {}
        self._outputs: dict[int, DecoderOutput] = {}
        # Objects that were prompted on the frame just tracked: a correction of them reads no memory.
        self._prompted: set[int] = set()
        self._frame_index = -1
        self._frame_shape: tuple[int, int] | None = None

    @property
    def frame_index(self) -> int:
        """Index of the frame just tracked; -1 before the first."""
        return self._frame_index

    @property
    def object_ids(self) -> tuple[int, ...]:
        """Ids of the objects being tracked, in the order in which they came."""
        return tuple(self._objects)

    def track(self, frame: np.ndarray, prompts: Mapping[int, Prompt] | None = None) -> FrameResult:
        """Track all objects on the next frame.

        A prompt makes this frame a conditioning frame of its object: the object reads no memory on it. Before the first
        prompt there is nothing to track, and the result holds no objects.

        Args:
            frame: uint8 (H, W, 3) RGB, every frame of a session of the same size; of the bundle's, where it has a frame
                size.
            prompts: by object id; a new id starts a new object, a known one is prompted anew.

        Raises:
            InputError: the frame or a prompt is not usable. The session stays as it was.
            EtamError: a graph failed, or (NotFiniteError) answered NaN. The session stays as it was.
        """
        shape = self._check_frame(frame)
        prepared = self._check_prompts({} if prompts is None else prompts, shape)
        new = [object_id for object_id in prepared if object_id not in self._objects]
        objects = {**self._objects, **{object_id: ObjectMemory(self._spec, self._sizes) for object_id in new}}
        if len(objects) > self.max_objects:
            raise InputError(
                f"{len(objects)} objects are more than this session holds ({self.max_objects}); "
                f"start it with max_objects={len(objects)}, or remove one"
            )
        self._backend.check_objects(len(objects))
        now = self._frame_index + 1
        outputs: dict[int, DecoderOutput] = {}
        placements: dict[int, Placement] = {}
        if objects:
            self._workspace.encode(self._fit(frame)[None])
            followed = self._follow(now, prepared)
            for row, (object_id, memory) in enumerate(objects.items()):
                placement = memory.place(now, conditioning=object_id in prepared)
                placements[object_id] = placement
                if object_id in followed:
                    outputs[object_id] = followed[object_id]
                    continue
                outputs[object_id] = self._prompt(row, prepared[object_id], correcting=None, reads_memory=False)
                self._workspace.remember(row, outputs[object_id].mask_logits, correcting=False)
                if object_id in new:
                    # Its slots hold nothing that a failure could harm.
                    self._workspace.store_unpooled(row, placement)
        result = self._result(now, shape, outputs)

        # From here on nothing is refused.
        for row, (object_id, memory) in enumerate(objects.items()):
            self._workspace.store(row, placements[object_id])
            memory.commit(placements[object_id])
        self._workspace.keep_frame()
        self._objects, self._outputs, self._prompted = objects, outputs, set(prepared)
        self._frame_index, self._frame_shape = now, shape
        return result

    def refine(self, object_id: int, prompt: Prompt) -> FrameResult:
        """Correct one object on the frame just tracked.

        The decoder sees the features it saw before, the new clicks and the mask it gave; a mask prompt is taken as it
        is. The frame's memory is written again, as a conditioning frame where `corrections_condition` was asked for.

        Returns:
            the frame's result for all objects.

        Raises:
            InputError: the object is not tracked, or the prompt is not usable. The session stays as it was.
            EtamError: a graph failed, or (NotFiniteError) answered NaN. The session stays as it was.
        """
        object_id = check_object_id(object_id)
        memory = self._known(object_id)
        assert self._frame_shape is not None, "an object is known only after a frame"
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
        """Stop tracking an object and forget it.

        Raises:
            InputError: the object is not tracked.
        """
        object_id = check_object_id(object_id)
        self._known(object_id)
        for row in range(self.object_ids.index(object_id), len(self._objects) - 1):
            self._workspace.move_row(row + 1, row)
        del self._objects[object_id], self._outputs[object_id]
        self._prompted.discard(object_id)

    def reset(self) -> None:
        """Forget all objects and frames; the next frame is the first and may have another size."""
        self._objects, self._outputs, self._prompted = {}, {}, set()
        self._frame_index, self._frame_shape = -1, None

    def object_pointer(self, object_id: int) -> np.ndarray:
        """The object pointer of the frame just tracked, float32 (width,).

        Raises:
            InputError: the object is not tracked.
        """
        object_id = check_object_id(object_id)
        self._known(object_id)
        return self._outputs[object_id].object_pointer.copy()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all that the rest of the stream depends on, to be resumed bit for bit by `Tracker.resume_session`.

        Raises:
            InputError: the file cannot be written; an earlier one stays as it was.
        """
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

    @classmethod
    def resume(cls, backend: Backend, bundle: Bundle, path: str | os.PathLike[str]) -> Session:
        """The session that `save` wrote.

        Raises:
            InputError: the file is missing, damaged, or was saved with another bundle.
        """
        state = load_state(path)
        if state.bundle != bundle.identity:
            raise InputError(f"{path} was saved with another bundle than {bundle.path}; resume it with its own")
        session = cls(backend, bundle, **state.options)
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

    # --- parts ---

    @property
    def _options(self) -> dict[str, Any]:
        return {
            "corrections_condition": self.corrections_condition,
            "max_objects": self.max_objects,
            "fill_hole_area": self.fill_hole_area,
            "resize": self._resizing.name,
        }

    def _fit(self, frame: np.ndarray) -> np.ndarray:
        """The frame as `encode` takes it, contiguous uint8."""
        if self._sizes.frame_size is not None:
            return np.ascontiguousarray(frame)
        return self._resizing.frame(frame, self._spec.image_size)

    def _follow(self, now: int, prompted: Mapping[int, object]) -> dict[int, DecoderOutput]:
        """`track` for the objects that have no prompt on this frame."""
        rows = {row: object_id for row, object_id in enumerate(self._objects) if object_id not in prompted}
        if not rows:
            return {}
        # One batch up to the last row that counts; prompted rows between are computed and not looked at.
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
        """bool (N, H, W). What the graph did not enlarge is enlarged here: prompted masks may be the user's own."""
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

    def _check_frame(self, frame: np.ndarray) -> tuple[int, int]:
        where = f"frame {self._frame_index + 1}"
        if not isinstance(frame, np.ndarray):
            raise InputError(f"{where} is a {type(frame).__name__}; give a NumPy array, uint8 (H, W, 3) RGB")
        if frame.dtype != np.uint8:
            raise InputError(f"{where} has type {frame.dtype}; give uint8 RGB, 0 to 255")
        if frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape:
            raise InputError(f"{where} has shape {frame.shape}; give (H, W, 3) RGB")
        shape = (frame.shape[0], frame.shape[1])
        if self._frame_shape is not None and shape != self._frame_shape:
            height, width = self._frame_shape
            raise InputError(
                f"{where} is {shape[1]} x {shape[0]} pixels and this session's frames are {width} x {height}; "
                "resize it, or start another session"
            )
        self._bundle.check_frame_shape(shape, where)
        return shape

    def _check_prompts(self, prompts: Mapping[int, Prompt], shape: tuple[int, int]) -> dict[int, PreparedPrompt]:
        if not isinstance(prompts, Mapping):
            raise InputError("prompts are given by object id, for example {1: Prompt(points=[(x, y)], labels=[1])}")
        return {
            check_object_id(object_id): prepare(prompt, object_id, shape, self._spec, self._sizes)
            for object_id, prompt in prompts.items()
        }
