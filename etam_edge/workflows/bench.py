"""How fast a bundle is on this machine, alone or compared with another bundle or PyTorch."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from etam_edge import __version__
from etam_edge.atomic import check_target
from etam_edge.benchmark.background import DESCRIPTION, BackgroundLoad
from etam_edge.benchmark.clip import BenchClip, clip_of_source, drawn_clip
from etam_edge.benchmark.machine import governor, look_at_machine, power_mode
from etam_edge.benchmark.measure import Candidate, check_length, measure, stage_frames
from etam_edge.benchmark.noise import NoiseWatch
from etam_edge.benchmark.packages import PACKAGES, look_up
from etam_edge.benchmark.result import Benchmark, ObjectsRun, Side, Source, Timing
from etam_edge.errors import BundleError, InputError
from etam_edge.plotting import can_plot
from etam_edge.runtimes.backends.threads import AUTO, Threads
from etam_edge.runtimes.resizing import EXACT
from etam_edge.spec import MODELS, NANO
from etam_edge.workflows.clips import PathLike
from etam_edge.workflows.doctor import ROOT
from etam_edge.workflows.packages import export_packages
from etam_edge.workflows.progress import ProgressCallback, Stage
from etam_edge.workflows.reports import write_report

if TYPE_CHECKING:
    from etam_edge.spec import ModelSpec

__all__ = ["DESCRIPTION", "BenchResult", "Benchmark", "ObjectsRun", "Side", "Timing", "bench"]

logger = logging.getLogger(__name__)
FIGURES, LATENCY, STAGES_PLOT = "bench.json", "latency.png", "stages.png"
TORCH = "torch"
MAX_OBJECTS = 64


@dataclass(frozen=True)
class BenchResult:
    """A benchmark that was run.

    Attributes:
        figures: all that was measured, with machine, versions and settings.
        files: JSON and plots that were written; empty without `output`.
    """

    figures: Benchmark
    files: tuple[Path, ...] = ()


def bench(
    bundle: PathLike,
    *,
    source: str | None = None,
    frame_size: tuple[int, int] | None = None,
    objects: Sequence[int] = (1, 2, 4),
    frames: int = 200,
    warm_up: int = 20,
    against: PathLike | None = None,
    checkpoint: PathLike | None = None,
    runtime: str = "auto",
    against_runtime: str = "auto",
    provider: str = "auto",
    against_provider: str = "auto",
    resize: str = EXACT,
    against_resize: str = EXACT,
    threads: Threads = AUTO,
    busy: int = 0,
    output: PathLike | None = None,
    command: str = "",
    progress: ProgressCallback | None = None,
) -> BenchResult:
    """Measure whole frames, their stages, start-up and memory.

    Args:
        bundle: path of the bundle.
        source: video file or folder of images, repeated as needed; None for a drawn clip.
        frame_size: (height, width) in pixels of the drawn clip; None for the bundle's own, or (240, 320).
        objects: numbers of objects, from 1 to 64; one run for each.
        frames: frames of each run, warm-up included.
        warm_up: frames at the beginning of each run that do not count.
        against: path of another bundle, or "torch" for the PyTorch model; frames of the two are interleaved.
        checkpoint: for `against="torch"`; None for the package's, if the model is etam_nano.
        runtime, provider, resize: of the bundle, as of `Tracker.load` and `Tracker.start_session`.
        against_runtime, against_provider, against_resize: of the other bundle.
        threads: CPU threads of each; "auto" uses one for each physical core.
        busy: number of processes that keep a core busy each while frames are measured.
        output: folder for figures and plots, or None for none; those of an earlier run move to `history/` in it.
        command: the call that measures the same again, for the figures.
        progress: told of the stage "bench".

    Raises:
        InputError: an argument, the source or the output cannot be used.
        BundleError, CheckpointError: a bundle or the checkpoint cannot be used.
        RuntimeUnavailableError: a runtime or PyTorch is not installed. Without matplotlib, a warning is logged and
            there are no plots.
    """
    target = None if output is None else Path(output)
    if target is not None:
        check_target(target, True, FIGURES, "benchmark")
    _check_options(source, frame_size, objects, against, checkpoint, (against_runtime, against_provider))
    if against in (None, TORCH) and against_resize != EXACT:
        raise InputError("`against_resize` is for `against=BUNDLE`; add that, or leave it out")
    clip = None if source is None else _clip_of(source)
    machine = look_at_machine(ROOT)
    noise = NoiseWatch()
    load = BackgroundLoad(busy)
    loaded = [_load_bundle(Path(bundle), runtime, provider, threads, resize, "")]
    if against == TORCH:
        loaded.append(_load_torch(loaded[0], None if checkpoint is None else Path(checkpoint), threads))
    elif against is not None:
        other = _load_bundle(Path(against), against_runtime, against_provider, threads, against_resize, "`against`: ")
        loaded.append(other.named_apart(loaded[0].side.name))
    check_length(frames, warm_up, [one.spec for one in loaded])
    if clip is None:
        own = next((one.frame_size for one in loaded if one.frame_size is not None), None)
        clip = drawn_clip(frame_size or own)
    for one in loaded:
        one.check(clip, max(objects))

    timed = [one.candidate for one in loaded]
    staged = sum(candidate.tracker is not None for candidate in timed)
    steps = Stage(progress, "bench", len(objects) * (frames + staged * stage_frames(frames, warm_up)), "frame")
    sides = [one.with_matrix_speed() for one in loaded]
    with load:
        runs = [measure(timed, clip, count, frames, warm_up, step=steps.step, root=ROOT) for count in objects]
    figures = Benchmark(
        etam_edge=__version__,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        command=command,
        machine=asdict(machine),
        versions=_versions(),
        power_mode=power_mode(),
        governor=governor(ROOT),
        threads=threads if isinstance(threads, int) else None,
        source=Source(clip.name, clip.frame_shape[1], clip.frame_shape[0], clip.decoded),
        frames=frames,
        warm_up=warm_up,
        sides=sides,
        runs=runs,
        noise=noise.finish(runs, machine.cores),
        busy=busy,
    )
    return BenchResult(figures, () if target is None else _write(target, figures))


@dataclass(frozen=True)
class _Loaded:
    """One side, ready to be measured."""

    side: Side
    spec: ModelSpec
    candidate: Candidate

    @property
    def frame_size(self) -> tuple[int, int] | None:
        """(H, W) of the only frames that a bundle takes, or None."""
        return None if self.candidate.tracker is None else self.candidate.tracker.bundle.manifest.sizes.frame_size

    def with_matrix_speed(self) -> Side:
        """The side, with the matrix speed of its runtime and the operations of its graphs.

        Measured before the background load starts: it is the machine's own speed.
        """
        from etam_edge.benchmark.matrix_speed import matrix_speed

        tracker = self.candidate.tracker
        speed = None if tracker is None else matrix_speed(tracker.backend)
        if tracker is None or speed is None:
            return self.side
        try:
            from etam_edge.exporters.arithmetic import frame_operations
        except ImportError:
            # Counting needs the onnx package, which a robot does not have.
            return replace(self.side, matrix_gflops=speed)
        return replace(self.side, matrix_gflops=speed, operations=frame_operations(tracker.bundle))

    def named_apart(self, other: str) -> _Loaded:
        """With a name of its own: bundles in different folders may have the same."""
        if self.side.name != other:
            return self
        name = f"{other} (against)"
        return replace(self, side=replace(self.side, name=name), candidate=replace(self.candidate, name=name))

    def check(self, clip: BenchClip, count: int) -> None:
        """
        Raises:
            InputError: the engines take fewer objects, or the frames or the prompts on them do not fit the bundle.
        """
        from etam_edge.runtimes.prompts import prepare

        tracker = self.candidate.tracker
        if tracker is None:
            return
        tracker.backend.check_objects(count)
        tracker.bundle.check_frame_shape(clip.frame_shape, f"clip {clip.name}")
        for number, prompt in clip.prompts(count).items():
            prepare(prompt, number, clip.frame_shape, self.spec, tracker.bundle.manifest.sizes)


def _check_options(
    source: str | None,
    frame_size: tuple[int, int] | None,
    objects: Sequence[int],
    against: PathLike | None,
    checkpoint: PathLike | None,
    other: tuple[str, str],
) -> None:
    """
    Raises:
        InputError: options contradict each other, or a number of objects is out of range or given twice.
    """
    text = ",".join(map(str, objects))
    if not objects or not all(1 <= count <= MAX_OBJECTS for count in objects):
        raise InputError(f"`objects={text}` is not a list of numbers from 1 to {MAX_OBJECTS}; give numbers like 1,2,4")
    if len(set(objects)) < len(objects):
        raise InputError(f"`objects={text}` has a number twice; name each once")
    if against != TORCH and checkpoint is not None:
        raise InputError("`checkpoint` is for `against=torch`; add that, or leave it out")
    if against is None and other != ("auto", "auto"):
        raise InputError(
            "`against_runtime` and `against_provider` are for `against=BUNDLE`; add that, or leave them out"
        )
    if source is not None and frame_size is not None:
        raise InputError("`frame_size` scales the drawn clip, and `source` has a size of its own; give one of them")


def _clip_of(source: str) -> BenchClip:
    """
    Raises:
        InputError: the source cannot be read, or is a camera.
    """
    from etam_edge.media.sources import open_source

    if source.isdecimal() and not Path(source).exists():
        raise InputError(
            f"`source={source}` is a camera, which gives frames at its own pace; name a video or a folder of images"
        )
    return clip_of_source(open_source(source))


def _load_bundle(path: Path, runtime: str, provider: str, threads: Threads, resize: str, where: str) -> _Loaded:
    """
    Raises:
        EtamError: the bundle, runtime, provider or way to resize cannot be used; the error begins with `where`.
    """
    from etam_edge.runtimes import Tracker
    from etam_edge.runtimes.resizing import choose_resizing

    begin = time.perf_counter()
    try:
        tracker = Tracker.load(path, runtime, provider=provider, threads=threads)
        load = 1e3 * (time.perf_counter() - begin)
        choose_resizing(tracker.bundle, resize)
    except (BundleError, InputError) as error:
        raise type(error)(f"{where}{error}") from error
    manifest = tracker.bundle.manifest
    name = path.resolve().name
    side = Side(
        name=name,
        path=str(path),
        model=manifest.model.name,
        precision=manifest.precision,
        runtime=tracker.runtime,
        identity=tracker.bundle.identity,
        load=load,
        resize=resize if manifest.sizes.frame_size is None else "graph",
        threads=getattr(tracker.backend, "threads", ""),
        int8_form=tracker.int8_form,
    )
    return _Loaded(side, tracker.spec, Candidate.of(name, tracker, resize))


def _load_torch(ours: _Loaded, checkpoint: Path | None, threads: Threads) -> _Loaded:
    """
    Raises:
        InputError: no checkpoint is known.
        CheckpointError: it cannot be used, or is another model's.
        RuntimeUnavailableError: torch is not installed.
    """
    # Before torch is imported: its idle threads sleep. Spinning, they would take cores from the other side.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with export_packages("`against=torch`"):
        from etam_edge.benchmark.torch_model import prepare_torch, torch_candidate
        from etam_edge.exporters.checkpoints import PACKAGED, load_model, sha256_of

        version = prepare_torch(threads if isinstance(threads, int) else None)
    tracker = ours.candidate.tracker
    if tracker is None:
        raise InputError("the PyTorch model is compared with a bundle; name one")
    if checkpoint is None:
        if tracker.spec != MODELS[NANO.name]:
            raise InputError(
                f"`against=torch` needs the checkpoint that {ours.side.path} was exported from "
                f"({tracker.bundle.manifest.checkpoint.name}); add `checkpoint=FILE`"
            )
        checkpoint = PACKAGED
    begin = time.perf_counter()
    model = load_model(tracker.spec, checkpoint)
    load = 1e3 * (time.perf_counter() - begin)
    sha256 = sha256_of(checkpoint)
    if sha256 != tracker.bundle.manifest.checkpoint.sha256:
        logger.warning("%s was not exported from %s; times can be compared, results cannot", ours.side.path, checkpoint)
    # A bundle's folder may be named torch as well.
    name = TORCH if ours.side.name != TORCH else "PyTorch"
    side = Side(name, str(checkpoint), tracker.spec.name, "fp32", f"torch {version} (cpu)", sha256, load)
    return _Loaded(side, tracker.spec, torch_candidate(name, model, tracker.bundle.manifest.sizes))


def _versions() -> dict[str, str]:
    found = {package.name: look_up(package).version for package in PACKAGES}
    return {name: version for name, version in found.items() if version is not None}


def _write(target: Path, figures: Benchmark) -> tuple[Path, ...]:
    """
    Raises:
        InputError: it cannot be written.
    """
    from etam_edge.benchmark.plots import latency_plot, stage_plot

    files: dict[str, str | bytes] = {FIGURES: figures.to_json()}
    if can_plot():
        files |= {LATENCY: latency_plot(figures), STAGES_PLOT: stage_plot(figures)}
    return write_report(target, files)
