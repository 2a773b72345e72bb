"""From everything mode to tracking: what is found in a frame becomes objects, and later frames are searched again."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from etam_edge.errors import InputError
from etam_edge.media.playback import PlayedFrame, track_frame
from etam_edge.runtimes.everything.options import EverythingOptions
from etam_edge.runtimes.everything.proposal import Proposal
from etam_edge.runtimes.segmenter import Segmenter
from etam_edge.runtimes.session import Session
from etam_edge.runtimes.types import FrameResult, Prompt

TAKEN = 0.5
"""A proposal is new if less than this share of it, and of every tracked mask under it, is common to both."""


@dataclass(frozen=True)
class ProposalOptions:
    """How objects are found while a stream is tracked.

    Attributes:
        every: frames between two searches; None for the first frame only.
        max_objects: cap on objects tracked at a time. For new ones, those that have not been visible for longest end.
        everything: options of everything mode.
    """

    every: int | None = None
    max_objects: int = 50
    everything: EverythingOptions = field(default_factory=EverythingOptions)

    def __post_init__(self) -> None:
        """
        Raises:
            InputError: a number is out of range.
        """
        for name, value in (("every", self.every), ("max_objects", self.max_objects)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise InputError(f"`{name}={value}` is not a whole number from 1")


class ProposingRunner:
    """Tracks frames as `track_frame` does, and adds the objects that everything mode finds where nothing is tracked.

    A frame is searched before it is tracked, where no mask of the frame before is. What is found is tracked from this
    frame on, and dropped again if an object that is tracked already turns out to be there. Ids are given once: an
    object that ended does not give its id to another.

    Args:
        session: of the stream.
        segmenter: of the same bundle; it may share the tracker's backend.
        options: how objects are found.

    Attributes:
        found: number of objects that proposals have started.
        ended: number of objects that ended to make room.
    """

    def __init__(self, session: Session, segmenter: Segmenter, options: ProposalOptions) -> None:
        self._session = session
        self._segmenter = segmenter
        self._options = options
        self._last: FrameResult | None = None
        self._next_id = 1
        # For objects that are not visible, the index of the first frame of this.
        self._lost_since: dict[int, int] = {}
        self.found = 0
        self.ended = 0

    def __call__(self, played: PlayedFrame[Any]) -> FrameResult:
        """Track a frame, with its prompts, corrections and proposals.

        Raises:
            EtamError: as of `Session.track`, `Session.refine` and `Segmenter.everything`.
        """
        self._next_id = max([self._next_id, *(number + 1 for number in (*played.prompts, *self._session.object_ids))])
        new = self._propose(played) if self._is_due(played.index) else {}
        self._make_room(len(new) + len([number for number in played.prompts if number not in self._session.object_ids]))
        result = track_frame(
            self._session, PlayedFrame(played.index, played.frame, {**played.prompts, **new}, played.corrections)
        )
        result = self._without_doubles(result, set(new))
        self.found += sum(number in new for number in result.object_ids)
        self._note_visible(result)
        self._last = result
        return result

    def _is_due(self, index: int) -> bool:
        every = self._options.every
        return index == 0 if every is None else index % every == 0

    def _propose(self, played: PlayedFrame[Any]) -> dict[int, Prompt]:
        """Mask prompts for what is new on a frame, the best first, by their new ids."""
        options, shape = self._options.everything, played.pixels.shape[:2]
        tracked = np.zeros((0, *shape), dtype=bool) if self._last is None else self._last.masks
        free = ~tracked.any(axis=0)
        if options.region is not None:
            free &= _as_mask(options.region, shape)
        if not free.any():
            return {}
        proposals = self._segmenter.everything(played.pixels, options.replace(region=free, top_k=None))
        room = self._options.max_objects - len(played.prompts)
        if options.top_k is not None:
            room = min(room, options.top_k)
        chosen = _disjoint(proposals, list(tracked), room)
        start = self._next_id
        self._next_id += len(chosen)
        return {start + place: Prompt(mask=mask) for place, mask in enumerate(chosen)}

    def _make_room(self, wanted: int) -> None:
        """End objects that are not visible, for longest first, until `wanted` new ones fit."""
        lost = sorted(self._lost_since, key=lambda number: self._lost_since[number])
        while lost and len(self._session.object_ids) + wanted > self._options.max_objects:
            number = lost.pop(0)
            self._session.remove(number)
            del self._lost_since[number]
            self.ended += 1

    def _without_doubles(self, result: FrameResult, new: set[int]) -> FrameResult:
        """The result without new objects where an older one is, and without those beyond the cap; both are removed."""
        old = [mask for number, mask in zip(result.object_ids, result.masks, strict=True) if number not in new]
        room = self._options.max_objects - len(old)
        dropped = set()
        for number, mask in zip(result.object_ids, result.masks, strict=True):
            if number not in new:
                continue
            if room <= 0 or any(_same(mask, other) for other in old):
                dropped.add(number)
                self._session.remove(number)
            else:
                room -= 1
        return _rows(result, [number not in dropped for number in result.object_ids]) if dropped else result

    def _note_visible(self, result: FrameResult) -> None:
        for number, visible in zip(result.object_ids, result.visible, strict=True):
            if visible:
                self._lost_since.pop(number, None)
            else:
                self._lost_since.setdefault(number, result.frame_index)
        self._lost_since = {number: since for number, since in self._lost_since.items() if number in result}


def _disjoint(proposals: list[Proposal], taken: list[np.ndarray], most: int) -> list[np.ndarray]:
    """Masks of proposals that share little with each other and with what is taken, best predicted IoU first."""
    chosen: list[np.ndarray] = []
    for proposal in sorted(proposals, key=lambda one: -one.predicted_iou):
        if len(chosen) >= most:
            break
        mask = proposal.mask
        if mask.any() and not any(_same(mask, other) for other in (*taken, *chosen)):
            chosen.append(mask)
    return chosen


def _same(mask: np.ndarray, other: np.ndarray) -> bool:
    """Whether one of two masks lies in the other for the most part."""
    smaller = min(int(np.count_nonzero(mask)), int(np.count_nonzero(other)))
    return smaller > 0 and int(np.count_nonzero(mask & other)) >= TAKEN * smaller


def _as_mask(region: Any, shape: tuple[int, ...]) -> np.ndarray:
    area = np.asarray(region)
    if area.dtype == np.bool_:
        return area
    mask = np.zeros(shape, dtype=bool)
    x0, y0, x1, y1 = (max(0, int(side)) for side in area)
    mask[y0:y1, x0:x1] = True
    return mask


def _rows(result: FrameResult, kept: list[bool]) -> FrameResult:
    """The result with some of its objects."""
    chosen = np.array(kept, dtype=bool)
    values = {one.name: getattr(result, one.name) for one in fields(result)}
    parts = {name: value[chosen] for name, value in values.items() if isinstance(value, np.ndarray)}
    ids = tuple(number for number, keep in zip(result.object_ids, kept, strict=True) if keep)
    return FrameResult(**{**values, **parts, "object_ids": ids})
