"""What a benchmark found: plain dataclasses that go to JSON as they are. Times are in milliseconds, memory in bytes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

SCHEMA = 1
WINDOW = 25
"""Frames at either end of a stream whose medians tell whether it slows down."""
EARLY = 50
"""Frame from which the early window is taken, where the stream is long enough."""
RESAMPLES = 2000
INTERVAL = (2.5, 97.5)
"""Percentiles of the bootstrap: a 95 % interval."""


@dataclass(frozen=True)
class Timing:
    """Percentiles over `frames` frames, interpolated between neighbours."""

    p50: float
    p95: float
    p99: float
    minimum: float
    frames: int

    @classmethod
    def of(cls, milliseconds: Sequence[float]) -> Timing:
        """Of at least one time."""
        p50, p95, p99 = (float(value) for value in np.percentile(milliseconds, (50, 95, 99)))
        return cls(p50, p95, p99, float(min(milliseconds)), len(milliseconds))

    @property
    def frames_per_second(self) -> float:
        """At the median; 0 where the clock is too coarse to tell."""
        return 1e3 / self.p50 if self.p50 else 0.0


@dataclass(frozen=True)
class Stages:
    """Where the time goes, measured in a pass of its own.

    Attributes:
        whole: of the frame in that pass: it waits for the device after every stage.
        stages: by name in their order; `other` is what remains of each frame.
    """

    whole: Timing
    stages: dict[str, Timing]


@dataclass(frozen=True)
class SideRun:
    """One of those measured, with one number of objects.

    Attributes:
        side: its name.
        start: `start_session`, which allocates all memory of the stream.
        first_frame: the frame with the prompts.
        second_frame: the first tracked one; libraries prepare themselves on it.
        milliseconds: of every frame of the stream by index, prompts and warm-up included.
        whole: of those after the warm-up.
        frames_per_second: at that median.
        drift: median of the last frames over that of early ones; above 1 it slows down.
        session_memory: bytes of all buffers of one session, where they lie on the device; None where that is not known.
        stages: None where they cannot be measured separately.
    """

    side: str
    start: float
    first_frame: float
    second_frame: float
    milliseconds: list[float]
    whole: Timing
    frames_per_second: float
    drift: float
    session_memory: int | None
    stages: Stages | None


@dataclass(frozen=True)
class Ratio:
    """Time of a frame of `against` over that of the bundle: above 1 the bundle is faster.

    Attributes:
        of_medians, of_minima: the ratio.
        low, high: 95 % interval of the ratio of medians, by resampling frames in pairs.
    """

    of_medians: float
    of_minima: float
    low: float
    high: float


@dataclass(frozen=True)
class Memory:
    """Of the whole process, all sides together. None where the system does not tell.

    Attributes:
        resident_after_warm_up, resident_at_end: what it held.
        growth: from the one to the other.
        peak: the most it held since it began.
        device: of the GPU's, at the end.
    """

    resident_after_warm_up: int | None
    resident_at_end: int | None
    growth: int | None
    peak: int | None
    device: int | None


@dataclass(frozen=True)
class ObjectsRun:
    """All sides with one number of objects.

    Attributes:
        objects: how many.
        decode: reading a frame from its file, before the frame begins; None where nothing is read.
        sides: the bundle, then what it is measured against.
        ratio: None where nothing is.
        memory: of the process.
    """

    objects: int
    decode: Timing | None
    sides: list[SideRun]
    ratio: Ratio | None
    memory: Memory


@dataclass(frozen=True)
class Side:
    """What is measured.

    Attributes:
        name: that tells it apart.
        path: of the bundle or the checkpoint.
        model: name of the variant.
        precision: of the bundle; "fp32" for PyTorch.
        runtime: where it runs.
        identity: the bundle's, or the checkpoint's sha256.
        load: milliseconds to load it.
        resize: where and how frames and masks are resized: "exact" or "fast" on the host, or "graph".
        threads: of the backend, and how they were chosen; "" where the backend does not say.
        matrix_gflops: speed of a large float32 product in the same runtime, measured in the same run; None where the
            backend does not compute on the CPU.
        operations: floating-point operations of the products of each graph, for one object; None where the onnx package
            is not installed or the side is not a bundle.
        int8_form: how int8 products are computed ("uint8 x int8", say); None without int8 or not on a CPU.
    """

    name: str
    path: str
    model: str
    precision: str
    runtime: str
    identity: str
    load: float
    resize: str = "exact"
    threads: str = ""
    matrix_gflops: float | None = None
    operations: dict[str, int] | None = None
    int8_form: str | None = None

    def frame_gflop(self, objects: int) -> float | None:
        """GFLOP of a tracked frame: the first graph runs once, the second for every object."""
        if self.operations is None:
            return None
        encode, track = (self.operations[name] for name in ("encode", "track"))
        return (encode + objects * track) / 1e9


@dataclass(frozen=True)
class Source:
    """Where frames come from.

    Attributes:
        name: of the file, or "drawn".
        width, height: in pixels.
        decoded: whether frames are read from a file.
    """

    name: str
    width: int
    height: int
    decoded: bool


@dataclass(frozen=True)
class Noise:
    """What else the machine did.

    Attributes:
        load_before, load_after: processes that ran or wanted to, over the last minute; None where it is not counted.
        pace_before, pace_after: milliseconds of a fixed piece of work: longer where the clock fell.
        warnings: a sentence for each sign of noise.
    """

    load_before: float | None
    load_after: float | None
    pace_before: float
    pace_after: float
    warnings: list[str]


@dataclass(frozen=True)
class Benchmark:
    """All of it.

    Attributes:
        etam_edge: version of this package.
        created: ISO 8601 in UTC.
        command: that measured it.
        machine: facts by name.
        versions: of packages.
        power_mode: a Jetson's, else None.
        governor: how the CPU's clock is chosen, where the system says so.
        threads: given for the CPU; None lets the runtime choose.
        source: of the frames.
        frames: of each stream, warm-up included.
        warm_up: frames at its beginning that do not count.
        sides: what was measured.
        runs: by number of objects.
        noise: what else the machine did.
        busy: processes of the background load beside which all of this was measured.
    """

    etam_edge: str
    created: str
    command: str
    machine: dict[str, Any]
    versions: dict[str, str]
    power_mode: str | None
    governor: str | None
    threads: int | None
    source: Source
    frames: int
    warm_up: int
    sides: list[Side]
    runs: list[ObjectsRun]
    noise: Noise
    busy: int = 0

    def to_json(self) -> str:
        """JSON with a trailing line break, times to a tenth of a microsecond."""
        return json.dumps(_rounded({"schema": SCHEMA, **asdict(self)}), indent=1, allow_nan=False) + "\n"


def drift(milliseconds: Sequence[float], warm_up: int) -> float:
    """Median of the last frames over the median of early ones, which begin at frame 50 or after the warm-up.

    Args:
        milliseconds: of every frame, at least two after the warm-up.
        warm_up: frames that do not count.
    """
    count = len(milliseconds)
    first = EARLY if warm_up <= EARLY and count - EARLY >= 2 * WINDOW else warm_up
    width = min(WINDOW, (count - first) // 2)
    early = float(np.median(milliseconds[first : first + width]))
    return float(np.median(milliseconds[count - width :])) / early if early else 1.0


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """Theirs over ours, frame by frame in pairs. Equal times give equal intervals: the seed is fixed."""
    pair = np.array([ours, theirs])
    # A clock that is too coarse answers zero.
    pair = np.maximum(pair, 1e-9)
    random = np.random.default_rng(0)
    resampled = np.empty(RESAMPLES)
    for number in range(RESAMPLES):
        mine, other = np.median(pair[:, random.integers(0, pair.shape[1], pair.shape[1])], axis=1)
        resampled[number] = other / mine
    low, high = (float(value) for value in np.percentile(resampled, INTERVAL))
    medians, minima = np.median(pair, axis=1), pair.min(axis=1)
    return Ratio(float(medians[1] / medians[0]), float(minima[1] / minima[0]), low, high)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {name: _rounded(one) for name, one in value.items()}
    return [_rounded(one) for one in value] if isinstance(value, list | tuple) else value
