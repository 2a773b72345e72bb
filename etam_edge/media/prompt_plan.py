"""Prompt plans: which object is prompted or corrected on which frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from etam_edge.errors import InputError
from etam_edge.runtimes.prompts import check_object_id, prepare
from etam_edge.runtimes.types import Prompt
from etam_edge.spec import GraphSizes, ModelSpec

NO_FRAME = -1


@dataclass(frozen=True, eq=False)
class PlannedPrompt:
    """One prompt for one object on one frame.

    Attributes:
        frame: index of the frame in its source, from 0.
        object_id: id of the object.
        prompt: in pixels of that frame.
        where: origin of the prompt for error messages, for example a file and entry.
        refine: whether it corrects the object after the frame has been tracked (`Session.refine`).
        label: name of the object, or None.
    """

    frame: int
    object_id: int
    prompt: Prompt
    where: str
    refine: bool = False
    label: str | None = None


class PromptPlan:
    """All prompts for one source.

    Args:
        prompts: in the order in which corrections of a frame are applied.
        files: that the prompts were read from.

    Attributes:
        files: as given.
        object_ids: ids of all objects, sorted.
        labels: names of objects that have one, by id.
        last_frame: index of the last frame that has a prompt; -1 where there is none.
    """

    def __init__(self, prompts: Sequence[PlannedPrompt], files: Sequence[Path] = ()) -> None:
        self._prompts = list(prompts)
        self.files = list(files)
        self.object_ids = sorted({planned.object_id for planned in prompts})
        self.labels = {planned.object_id: planned.label for planned in prompts if planned.label is not None}
        self._last = max(prompts, key=lambda planned: planned.frame, default=None)
        self.last_frame = NO_FRAME if self._last is None else self._last.frame

    @property
    def planned(self) -> tuple[PlannedPrompt, ...]:
        """All prompts, in the order in which they were given."""
        return tuple(self._prompts)

    def check_frames(self, count: int) -> None:
        """Refuse prompts for frames that the source does not have.

        Args:
            count: number of frames of the source.

        Raises:
            InputError: a prompt is for a later frame.
        """
        if self._last is not None and self.last_frame >= count:
            raise InputError(
                f"{self._last.where}: a prompt is for frame {self.last_frame}, and frames run from 0 to {count - 1}; "
                "give an earlier frame"
            )

    def check_prompts(self, frame_shape: tuple[int, int], spec: ModelSpec, sizes: GraphSizes) -> None:
        """Refuse prompts that a session would refuse later, before any frame is tracked.

        Args:
            frame_shape: (H, W) of the frames.
            spec: the bundle's model.
            sizes: of its graphs.

        Raises:
            InputError: a prompt does not fit the frames or the bundle.
        """
        for planned in self._prompts:
            try:
                prepare(planned.prompt, planned.object_id, frame_shape, spec, sizes)
            except InputError as error:
                raise InputError(f"{planned.where}: {error}") from error

    def prompts(self, frame: int) -> dict[int, Prompt]:
        """Prompts to pass with a frame to `Session.track`, by object id."""
        return {p.object_id: p.prompt for p in self._prompts if p.frame == frame and not p.refine}

    def corrections(self, frame: int) -> list[tuple[int, Prompt]]:
        """Corrections to apply with `Session.refine` once the frame has been tracked, in order."""
        return [(p.object_id, p.prompt) for p in self._prompts if p.frame == frame and p.refine]


def plan_of(prompts: PromptPlan | Mapping[int, Any] | None) -> PromptPlan:
    """A plan from prompts in Python.

    Args:
        prompts: {object_id: Prompt} for the first frame, or {frame_index: {object_id: Prompt}}, or a plan, which is
            returned as it is. None means no prompts.

    Raises:
        InputError: the prompts have another form.
    """
    if isinstance(prompts, PromptPlan):
        return prompts
    if prompts is None:
        return PromptPlan([])
    form = "{object_id: Prompt(...)} for the first frame, or {frame_index: {object_id: Prompt(...)}}"
    if not isinstance(prompts, Mapping):
        raise InputError(f"prompts are a {type(prompts).__name__}; give {form}")
    nested = [isinstance(value, Mapping) for value in prompts.values()]
    if any(nested) and not all(nested):
        raise InputError(f"prompts mix objects and frames; give {form}")
    frames = prompts if any(nested) else {0: prompts}
    planned = []
    for frame, of_frame in frames.items():
        if isinstance(frame, bool) or not isinstance(frame, int) or frame < 0:
            raise InputError(f"prompts have the frame index {frame!r}; give whole numbers from 0")
        for object_id, prompt in of_frame.items():
            if not isinstance(prompt, Prompt):
                raise InputError(f"prompts have a {type(prompt).__name__} where a Prompt is expected; give {form}")
            planned.append(PlannedPrompt(frame, check_object_id(object_id), prompt, f"prompts of frame {frame}"))
    return PromptPlan(planned)
