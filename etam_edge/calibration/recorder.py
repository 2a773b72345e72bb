"""The recorder: tracks clips and keeps samples of the inputs of every graph."""

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
from etam_edge.media.playback import PlayedFrame, play, track_frame
from etam_edge.media.sources import NamedFrame
from etam_edge.recipe import FP32
from etam_edge.runtimes.backends.base import Backend
from etam_edge.runtimes.backends.buffers import Buffer, Device
from etam_edge.runtimes.tracker import Tracker
from etam_edge.spec import EMPTY_BIAS, MASK_SOURCE_LOGITS, MASK_SOURCE_MASK, ModelSpec

SAMPLES = 32
"""Number of samples of each graph, by default."""
MAX_BYTES = 2_000_000_000
TRACK_SHARE = 0.7
"""Share of the bytes for samples of `track`, each of which contains a whole memory bank."""
POINTER_STEP = 4
"""Calls of `track` whose numbers of object pointers differ by less are of the same kind."""


def frames_to_fill(spec: ModelSpec) -> int:
    """Number of frames of a clip, including the prompted one, after which a call of `track` has read a full memory."""
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
        clips: with prompts, at least one of `frames_to_fill` frames.
        output: folder of the recording. It is renamed to this path when it is complete.
        samples: maximum number of samples of each graph.
        max_bytes: maximum size of all samples.
        seed: of the random choice of samples. The same clips and seed give the same recording.
        overwrite: replace a recording at `output`.
        progress: called with the clip's name and the number of its frames that are done.

    Raises:
        InputError: there are no clips, they are too short to fill the memory, their frames have another size than the
            bundle's, or the output cannot be written.
    """
    manifest = tracker.bundle.manifest
    if manifest.recipe.precision != FP32:
        raise InputError(f"{tracker.bundle.path} is {manifest.precision}; record with an fp32 bundle")
    if samples < 1 or max_bytes < 1:
        raise InputError(f"a recording of {samples} samples and {max_bytes} bytes is empty; allow at least 1 of each")
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
    """Check that the clips are long enough to fill the memory.

    Raises:
        InputError: there are no clips, or all of them are too short.
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

    def run(played: PlayedFrame[NamedFrame]) -> None:
        sampler.at(clip.name, played.index)
        track_frame(session, played)

    count = 0
    for played, _ in play(clip.frames, clip.plan, [run]):
        count = played.index + 1
        progress(clip.name, count)
    return count


class _RecordingBackend:
    """A backend that passes the inputs and outputs of every call to a sampler."""

    def __init__(self, backend: Backend, sampler: _Sampler) -> None:
        self._backend, self._sampler = backend, sampler
        self.name = backend.name
        self.device: Device = backend.device
        self.max_objects = backend.max_objects

    def check_objects(self, count: int) -> None:
        self._backend.check_objects(count)

    def close(self) -> None:
        self._backend.close()

    def run(self, graph: str, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> None:
        self._backend.run(graph, inputs, outputs)
        # The memory bank is written only after the call, so the inputs still have the values that the graph read.
        self._sampler.offer(graph, inputs, outputs, self.device)


@dataclass(frozen=True)
class _Kept:
    """A sample, its random number (samples with the highest are dropped first) and its size in bytes."""

    sample: Sample
    number: float
    size: int


class _Sampler:
    """Writes samples to disk as they are offered, and keeps about as many of each kind, chosen at random.

    When there are too many samples or bytes, a sample of the most frequent kind is dropped: the one with the highest
    random number. So rare kinds, such as objects that are not visible, are kept.

    Args:
        folder: of the recording.
        spec: of the model.
        samples: maximum number of samples of each graph.
        max_bytes: maximum size of the samples of all graphs.
        seed: of the random numbers.

    Attributes:
        seen: number of calls by the graph's name and the kind of call.
    """

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
        """Set the frame that the following calls belong to."""
        self._clip, self._frame = clip, frame

    def offer(self, graph: str, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer], device: Device) -> None:
        """Write the inputs of a call to disk if they are chosen, and delete the samples that they replace.

        Raises:
            InputError: a single sample is larger than all samples of its graph may be.
        """
        kind = self._kind(graph, inputs, outputs, device)
        self.seen[graph][kind] += 1
        # Every call takes a random number, chosen or not, so that the choice depends only on the clips and the seed.
        number = self._random.random()
        size = sum(buffer.nbytes for buffer in inputs.values())
        name = f"{graph}/{self._count:06d}.npz"
        kept = self._kept[graph]
        new = _Kept(Sample(name, self._clip, self._frame, kind), number, size)
        if size > self._bytes[graph]:
            raise InputError(
                f"one sample of {graph} takes {size / 1e6:.0f} MB and may take {self._bytes[graph] / 1e6:.0f} MB; "
                "allow the recording more with `max_size`"
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
        """Samples to drop, so that number and size are within the limits."""
        dropped: list[_Kept] = []
        remaining = list(candidates)
        while len(remaining) > self._samples or sum(one.size for one in remaining) > limit:
            counts = Counter(one.sample.kind for one in remaining)
            worst = max(remaining, key=lambda one: (counts[one.sample.kind], one.number))
            remaining.remove(worst)
            dropped.append(worst)
        return dropped

    def samples(self) -> dict[str, list[Sample]]:
        """Samples that were kept, by the graph's name."""
        return {name: [one.sample for one in kept] for name, kept in self._kept.items()}

    def check_filled(self) -> None:
        """Check that a call of `track` has read a full memory.

        Raises:
            InputError: none has.
        """
        spec, (frames, pointers) = self._spec, self._most_read
        if frames < spec.memory_frames or pointers < spec.max_object_pointers:
            raise InputError(
                f"the memory was never full: at most {frames} of {spec.memory_frames} memory frames and {pointers} of "
                f"{spec.max_object_pointers} object pointers were read; give clips in which an object is followed for "
                f"{frames_to_fill(spec)} frames after its prompt"
            )

    def _kind(self, graph: str, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer], device: Device) -> str:
        """Kind of a call, in words: by clip, size of the mask, kind of prompt, or state of the memory."""
        if graph == "encode":
            return self._clip
        if graph == "remember":
            share = float((device.download(inputs["mask_logits"]) > 0).mean())
            return "mask under 5 %" if share < 0.05 else "mask under 20 %" if share < 0.2 else "larger mask"
        if graph == "prompt":
            source = int(device.download(inputs["mask_source"])[0])
            points = int((device.download(inputs["labels"])[0] >= 0).sum())
            prompt = {MASK_SOURCE_MASK: "a mask", MASK_SOURCE_LOGITS: "a correction"}.get(source, "clicks or a box")
            return prompt if source == MASK_SOURCE_MASK else f"{prompt}, {points} points"
        return self._track_kind(inputs, outputs, device)

    def _track_kind(self, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer], device: Device) -> str:
        """Kind of a call of `track`: by memory frames and pointers read, objects, and whether they are visible."""
        full = device.download(inputs["slot_bias"]) > EMPTY_BIAS / 2
        # Slots without a time code are parts of a single, unpooled memory entry, which takes several slots.
        coded = device.download(inputs["time_codes"]) < self._spec.memory_frames
        frames = int(np.maximum((full & coded).sum(axis=1), full.any(axis=1)).max())
        pointers = int((device.download(inputs["pointer_bias"]) > EMPTY_BIAS / 2).sum(axis=1).max())
        self._most_read = max(self._most_read, (frames, pointers))
        scores = device.download(outputs["object_score"])
        visible = "all visible" if (scores > 0).all() else "none visible" if (scores <= 0).all() else "some visible"
        step = -(-pointers // POINTER_STEP) * POINTER_STEP
        return f"{frames} memory frames, up to {step} pointers, {len(scores)} objects, {visible}"
