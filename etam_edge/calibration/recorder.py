"""The recorder: tracks clips and keeps samples of what every graph was given."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from etam_edge.atomic import atomic_directory
from etam_edge.bundle import GRAPH_NAMES
from etam_edge.calibration.recording import MANIFEST, Recording, Sample
from etam_edge.errors import InputError
from etam_edge.media.datasets import Clip
from etam_edge.recipe import FP32
from etam_edge.runtimes.backends.base import Backend
from etam_edge.runtimes.backends.buffers import Buffer, Device
from etam_edge.runtimes.tracker import Tracker
from etam_edge.spec import EMPTY_BIAS, MASK_SOURCE_LOGITS, MASK_SOURCE_MASK, ModelSpec

SAMPLES = 32
"""Samples of each graph, by default."""
MAX_BYTES = 2_000_000_000
TRACK_SHARE = 0.7
"""Share of the bytes that samples of `track`, which hold a whole bank each, may take."""
POINTER_STEP = 4


def frames_to_fill(spec: ModelSpec) -> int:
    """Frames of a clip, its prompted one included, after which the bank has been read full."""
    return max(spec.memory_frames, spec.max_object_pointers) + 1


def record(
    tracker: Tracker,
    clips: Sequence[Clip],
    output: Path,
    *,
    samples: int = SAMPLES,
    max_bytes: int = MAX_BYTES,
    seed: int = 0,
    overwrite: bool = False,
    progress: Callable[[str, int], None] = lambda clip, frame: None,
) -> Recording:
    """Track the clips and write a recording.

    Args:
        tracker: of an fp32 bundle.
        output: folder of the recording; it appears when all is done.
        samples: of each graph, at most.
        max_bytes: of all samples together, at most.
        seed: of the choice of samples; the same clips and seed give the same recording.
        progress: called with the clip's name and the number of frames done of it.

    Raises:
        InputError: the clips are too few, too short to fill the memory or of another size than the bundle's frames, or
            the output cannot be written.
    """
    manifest = tracker.bundle.manifest
    if manifest.recipe.precision != FP32:
        raise InputError(f"{tracker.bundle.path} is {manifest.precision}; record with an fp32 bundle")
    if samples < 1 or max_bytes < 1:
        raise InputError(f"a recording of {samples} samples and {max_bytes} bytes holds nothing; ask for more")
    check_clips(clips, tracker.spec)
    for clip in clips:
        tracker.bundle.check_frame_shape(clip.frames.frame_shape, f"clip {clip.name}")
    with atomic_directory(output, overwrite, marker=MANIFEST, what="recording") as draft:
        sampler = _Sampler(draft, tracker.spec, samples, max_bytes, seed)
        recorder = Tracker(tracker.bundle, _RecordingBackend(tracker.backend, sampler))
        rows = []
        for clip in clips:
            frames = _follow(recorder, clip, sampler, progress)
            rows.append({"name": clip.name, "frames": frames, "objects": len(clip.plan.object_ids)})
        sampler.check_filled()
        recording = Recording(
            path=draft,
            model=manifest.model.to_dict(),
            sizes=manifest.sizes.to_dict(),
            checkpoint=manifest.checkpoint.to_dict(),
            clips=rows,
            seed=seed,
            samples=sampler.samples(),
            seen={name: dict(sampler.seen[name]) for name in GRAPH_NAMES},
        )
        (draft / MANIFEST).write_text(recording.to_json(), encoding="utf-8")
    return replace(recording, path=output)


def check_clips(clips: Sequence[Clip], spec: ModelSpec) -> None:
    """
    Raises:
        InputError: there are none, or all are too short to fill the memory.
    """
    if not clips:
        raise InputError("there is no clip to record; name a folder of clips with prompts")
    needed = frames_to_fill(spec)
    longest = max(clips, key=lambda clip: clip.length)
    if longest.length < needed:
        raise InputError(
            f"the clips are shorter than the memory: the longest, {longest.name}, has {longest.length} frames, and the "
            f"memory is full after {needed}; add a clip of at least {needed} frames"
        )


def _follow(tracker: Tracker, clip: Clip, sampler: _Sampler, progress: Callable[[str, int], None]) -> int:
    session = tracker.start_session(max_objects=len(clip.plan.object_ids))
    count = 0
    for index, frame in enumerate(clip.frames):
        sampler.at(clip.name, index)
        session.track(frame.pixels, prompts=clip.plan.prompts(index))
        for object_id, prompt in clip.plan.corrections(index):
            session.refine(object_id, prompt)
        count = index + 1
        progress(clip.name, count)
    return count


class _RecordingBackend:
    """A backend that shows a sampler what it was given and what it answered."""

    def __init__(self, backend: Backend, sampler: _Sampler) -> None:
        self._backend, self._sampler = backend, sampler
        self.name = backend.name
        self.device: Device = backend.device

    def check_objects(self, count: int) -> None:
        self._backend.check_objects(count)

    def run(self, graph: str, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> None:
        self._backend.run(graph, inputs, outputs)
        # The bank is written only after the call, so the inputs are still what the graph saw.
        self._sampler.offer(graph, inputs, outputs, self.device)


@dataclass(frozen=True)
class _Kept:
    sample: Sample
    lot: float
    size: int


class _Sampler:
    """Keeps an even number of samples of every kind, chosen by lot within a kind, and streams them to disk."""

    def __init__(self, folder: Path, spec: ModelSpec, samples: int, max_bytes: int, seed: int) -> None:
        self._spec = spec
        self._folder = folder
        self._samples = samples
        others = len(GRAPH_NAMES) - 1
        self._bytes = {
            name: int(max_bytes * (TRACK_SHARE if name == "track" else (1 - TRACK_SHARE) / others))
            for name in GRAPH_NAMES
        }
        self._random = random.Random(seed)
        self._kept: dict[str, list[_Kept]] = {name: [] for name in GRAPH_NAMES}
        self._count = 0
        self._most_read = (0, 0)
        self._clip, self._frame = "", 0
        self.seen: dict[str, Counter[str]] = defaultdict(Counter)

    def at(self, clip: str, frame: int) -> None:
        """The calls that follow belong to this frame."""
        self._clip, self._frame = clip, frame

    def offer(self, graph: str, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer], device: Device) -> None:
        """Take the call's inputs, or not."""
        kind = self._kind(graph, inputs, outputs, device)
        self.seen[graph][kind] += 1
        # Drawn for every call, taken or not: the choice depends on the clips and the seed alone.
        lot = self._random.random()
        size = sum(buffer.nbytes for buffer in inputs.values())
        name = f"{graph}/{self._count:06d}.npz"
        kept = self._kept[graph]
        new = _Kept(Sample(name, self._clip, self._frame, kind), lot, size)
        if size > self._bytes[graph]:
            raise InputError(
                f"one sample of {graph} takes {size / 1e6:.0f} MB and may take {self._bytes[graph] / 1e6:.0f} MB; "
                "allow the recording more with --max-size"
            )
        dropped = self._dropped([*kept, new], self._bytes[graph])
        if new in dropped:
            return
        for old in dropped:
            kept.remove(old)
            (self._folder / old.sample.file).unlink()
        kept.append(new)
        self._count += 1
        file = self._folder / name
        file.parent.mkdir(exist_ok=True)
        arrays = {key: device.download(buffer) for key, buffer in inputs.items()}
        np.savez(file, **arrays)  # type: ignore[arg-type]

    def _dropped(self, candidates: list[_Kept], limit: int) -> list[_Kept]:
        """What has to go so that number and bytes are within bounds: from the most frequent kind, the highest lot."""
        dropped: list[_Kept] = []
        remaining = list(candidates)
        while len(remaining) > self._samples or sum(one.size for one in remaining) > limit:
            counts = Counter(one.sample.kind for one in remaining)
            worst = max(remaining, key=lambda one: (counts[one.sample.kind], one.lot))
            remaining.remove(worst)
            dropped.append(worst)
        return dropped

    def samples(self) -> dict[str, list[Sample]]:
        return {name: [one.sample for one in kept] for name, kept in self._kept.items()}

    def check_filled(self) -> None:
        """
        Raises:
            InputError: no call of `track` read a full memory.
        """
        spec, (frames, pointers) = self._spec, self._most_read
        if frames < spec.memory_frames or pointers < spec.max_object_pointers:
            raise InputError(
                f"the memory was never full: at most {frames} of {spec.memory_frames} memory frames and {pointers} of "
                f"{spec.max_object_pointers} object pointers were read; give clips in which an object is followed for "
                f"{frames_to_fill(spec)} frames after its prompt"
            )

    def _kind(self, graph: str, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer], device: Device) -> str:
        if graph == "encode":
            return self._clip
        if graph == "remember":
            share = float((device.download(inputs["mask_logits"]) > 0).mean())
            return "mask under 5 %" if share < 0.05 else "mask under 20 %" if share < 0.2 else "larger mask"
        if graph == "prompt":
            source = int(device.download(inputs["mask_source"])[0])
            points = int((device.download(inputs["labels"])[0] >= 0).sum())
            said = {MASK_SOURCE_MASK: "a mask", MASK_SOURCE_LOGITS: "a correction"}.get(source, "clicks or a box")
            return said if source == MASK_SOURCE_MASK else f"{said}, {points} points"
        return self._track_kind(inputs, outputs, device)

    def _track_kind(self, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer], device: Device) -> str:
        full = device.download(inputs["slot_bias"]) > EMPTY_BIAS / 2
        # Slots without a time code are the parts of a lone memory.
        coded = device.download(inputs["time_codes"]) < self._spec.memory_frames
        frames = int(np.maximum((full & coded).sum(axis=1), full.any(axis=1)).max())
        pointers = int((device.download(inputs["pointer_bias"]) > EMPTY_BIAS / 2).sum(axis=1).max())
        self._most_read = max(self._most_read, (frames, pointers))
        scores = device.download(outputs["object_score"])
        sight = "all visible" if (scores > 0).all() else "none visible" if (scores <= 0).all() else "some visible"
        step = -(-pointers // POINTER_STEP) * POINTER_STEP
        return f"{frames} memory frames, up to {step} pointers, {len(scores)} objects, {sight}"
