"""`etam-edge bench`: how fast a bundle is on this machine, and how much faster or slower than another."""

from __future__ import annotations

import os
import shlex
import time
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from etam_edge import __version__
from etam_edge.cli.threads import THREADS
from etam_edge.errors import BundleError, InputError

if TYPE_CHECKING:
    from etam_edge.benchmark.clip import BenchClip
    from etam_edge.benchmark.measure import Candidate
    from etam_edge.benchmark.result import Benchmark, Side
    from etam_edge.spec import ModelSpec

FIGURES, LATENCY, STAGES_PLOT = "bench.json", "latency.png", "stages.png"
TORCH = "torch"
MAX_OBJECTS = 64


def bench(
    bundle: Annotated[Path, typer.Argument(help="Bundle that is measured.")],
    source: Annotated[
        str | None,
        typer.Option(help="Video file or folder of images, repeated as needed.", show_default="a drawn clip"),
    ] = None,
    frame_size: Annotated[
        str | None,
        typer.Option(help="WxH in pixels of the drawn clip's frames.", show_default="the bundle's own, or 320x240"),
    ] = None,
    objects: Annotated[str, typer.Option(help="Numbers of objects, one run for each.")] = "1,2,4",
    frames: Annotated[int, typer.Option(help="Frames of each run, warm-up included.")] = 200,
    warm_up: Annotated[int, typer.Option(help="Frames at its beginning that do not count.")] = 20,
    against: Annotated[
        str | None, typer.Option(help="Another bundle, or torch: the two take turns frame by frame.")
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="Checkpoint for --against torch.", show_default="the package's, where the model is etam_nano"
        ),
    ] = None,
    runtime: Annotated[
        str, typer.Option(help="Runtime of BUNDLE: auto, onnxruntime, openvino, tensorrt or tensorrt-rtx.")
    ] = "auto",
    against_runtime: Annotated[str, typer.Option(help="Runtime of the other bundle.")] = "auto",
    provider: Annotated[str, typer.Option(help="ONNX Runtime provider of BUNDLE: cpu, cuda or auto.")] = "auto",
    against_provider: Annotated[str, typer.Option(help="That of the other bundle.")] = "auto",
    resize: Annotated[str, typer.Option(help="How the host resizes for BUNDLE: exact or fast.")] = "exact",
    against_resize: Annotated[str, typer.Option(help="How it does for the other bundle.")] = "exact",
    threads: Annotated[int | None, typer.Option(help="CPU threads of each.", **THREADS)] = None,
    busy: Annotated[
        int, typer.Option(help="Measure beside so many busy processes, which sort numbers without a pause.")
    ] = 0,
    output: Annotated[
        Path | None, typer.Option(help="Folder for figures and plots.", show_default="out/bench/BUNDLE")
    ] = None,
) -> None:
    """Measure whole frames, their stages and memory, alone or in turn with another bundle or PyTorch."""
    from etam_edge.atomic import check_target
    from etam_edge.benchmark.background import BackgroundLoad
    from etam_edge.benchmark.clip import drawn_clip
    from etam_edge.benchmark.machine import governor, look_at_machine, power_mode
    from etam_edge.benchmark.measure import check_length, measure, stage_frames
    from etam_edge.benchmark.noise import NoiseWatch
    from etam_edge.benchmark.result import Benchmark, Source
    from etam_edge.cli.bench_tables import show
    from etam_edge.cli.console import frame_progress, out
    from etam_edge.cli.doctor import ROOT
    from etam_edge.plotting import need_matplotlib

    # All that can be refused is refused before the first frame is tracked.
    need_matplotlib()
    counts = _counts(objects)
    load = BackgroundLoad(busy)
    if against != TORCH and checkpoint is not None:
        raise InputError("--checkpoint is for --against torch; add that, or leave it out")
    if against is None and (against_runtime, against_provider) != ("auto", "auto"):
        raise InputError(
            "--against-runtime and --against-provider are for --against BUNDLE; add that, or leave them out"
        )
    if against in (None, TORCH) and against_resize != "exact":
        raise InputError("--against-resize is for --against BUNDLE; add that, or leave it out")
    clip = _clip(source, frame_size)
    target = output or Path("out") / "bench" / bundle.resolve().name
    check_target(target, True, FIGURES, "benchmark")
    machine = look_at_machine(ROOT)
    noise = NoiseWatch()
    loaded = [_load_bundle(bundle, runtime, provider, threads, resize, "")]
    if against == TORCH:
        loaded.append(_load_torch(loaded[0], checkpoint, threads))
    elif against is not None:
        loaded.append(
            _load_bundle(Path(against), against_runtime, against_provider, threads, against_resize, "--against: ")
        )
        loaded[1] = loaded[1].named_apart(loaded[0].side.name)
    check_length(frames, warm_up, [one.spec for one in loaded])
    if source is None and frame_size is None:
        clip = drawn_clip(next((one.frame_size for one in loaded if one.frame_size is not None), None))
    for one in loaded:
        one.check(clip, max(counts))

    timed = [one.candidate for one in loaded]
    staged = sum(candidate.tracker is not None for candidate in timed)
    sides = [one.with_matrix_speed() for one in loaded]
    with load, frame_progress() as bar:
        task = bar.add_task("bench", total=len(counts) * (frames + staged * stage_frames(frames, warm_up)))
        runs = [
            measure(
                timed,
                clip,
                count,
                frames,
                warm_up,
                step=lambda what: bar.update(task, advance=1, description=what),
                root=ROOT,
            )
            for count in counts
        ]
    result = Benchmark(
        etam_edge=__version__,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        command=_command(bundle, source, frame_size, objects, frames, warm_up, against, checkpoint)
        + _runtime_options(runtime, provider, against_runtime, against_provider, threads, resize, against_resize)
        + (f" --busy {busy}" if busy else ""),
        machine=asdict(machine),
        versions=_versions(),
        power_mode=power_mode(),
        governor=governor(ROOT),
        threads=threads,
        source=Source(clip.name, clip.frame_shape[1], clip.frame_shape[0], clip.decoded),
        frames=frames,
        warm_up=warm_up,
        sides=sides,
        runs=runs,
        noise=noise.finish(runs, machine.cores),
        busy=busy,
    )
    _write(target, result)
    show(result)
    out.print(f"{target / FIGURES}, {target / LATENCY}, {target / STAGES_PLOT}", markup=False, emoji=False)
    _name_next(bundle, against)


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
        """Bundles in different folders may have one name."""
        if self.side.name != other:
            return self
        name = f"{other} (against)"
        return replace(self, side=replace(self.side, name=name), candidate=replace(self.candidate, name=name))

    def check(self, clip: BenchClip, count: int) -> None:
        """
        Raises:
            InputError: the engines take fewer objects, or the frames or the prompts on them do not serve.
        """
        from etam_edge.runtimes.prompts import prepare

        tracker = self.candidate.tracker
        if tracker is None:
            return
        tracker.backend.check_objects(count)
        tracker.bundle.check_frame_shape(clip.frame_shape, f"clip {clip.name}")
        for number, prompt in clip.prompts(count).items():
            prepare(prompt, number, clip.frame_shape, self.spec, tracker.bundle.manifest.sizes)


def _counts(text: str) -> list[int]:
    """
    Raises:
        InputError: it is no list of numbers, or one of them is out of range or there twice.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and 1 <= int(part[:9]) <= MAX_OBJECTS for part in parts):
        raise InputError(f"--objects {text} is no list of numbers from 1 to {MAX_OBJECTS}; write it like 1,2,4")
    counts = [int(part) for part in parts]
    if len(set(counts)) < len(counts):
        raise InputError(f"--objects {text} names a number twice; name each once")
    return counts


def _clip(source: str | None, frame_size: str | None) -> BenchClip:
    """
    Raises:
        InputError: the source cannot be read, or the size is not usable.
    """
    from etam_edge.benchmark.clip import clip_of_source, drawn_clip
    from etam_edge.cli.frame_size import parse_frame_size
    from etam_edge.media.sources import open_source

    if source is not None:
        if frame_size is not None:
            raise InputError("--frame-size scales the drawn clip, and --source has a size of its own; give one of them")
        if source.isdecimal() and not Path(source).exists():
            raise InputError(
                f"--source {source} is a camera, which gives frames at its own pace; name a video or a folder of images"
            )
        return clip_of_source(open_source(source))
    return drawn_clip(None if frame_size is None else parse_frame_size(frame_size))


def _load_bundle(path: Path, runtime: str, provider: str, threads: int | None, resize: str, where: str) -> _Loaded:
    """
    Raises:
        EtamError: the bundle, runtime, provider or way to resize cannot be used; for an unknown option with `where`
            it was given.
    """
    from etam_edge.benchmark.measure import Candidate
    from etam_edge.benchmark.result import Side
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


def _load_torch(ours: _Loaded, checkpoint: Path | None, threads: int | None) -> _Loaded:
    """
    Raises:
        InputError: no checkpoint is known.
        CheckpointError: it is not usable, or is another model's.
        RuntimeUnavailableError: torch is not installed.
    """
    from etam_edge.benchmark.result import Side
    from etam_edge.cli.console import err, export_packages
    from etam_edge.spec import MODELS, NANO

    # Before torch is imported: its idle threads sleep. Spinning, they would take cores from whoever has the next turn.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with export_packages("--against torch"):
        import torch

        from etam_edge.benchmark.torch_model import torch_candidate
        from etam_edge.exporters.checkpoints import PACKAGED, load_model, sha256_of
    tracker = ours.candidate.tracker
    assert tracker is not None
    if checkpoint is None:
        if tracker.spec != MODELS[NANO.name]:
            raise InputError(
                f"--against torch needs the checkpoint that {ours.side.path} was exported from "
                f"({tracker.bundle.manifest.checkpoint.name}); add --checkpoint FILE"
            )
        checkpoint = PACKAGED
    begin = time.perf_counter()
    model = load_model(tracker.spec, checkpoint)
    load = 1e3 * (time.perf_counter() - begin)
    if threads is not None:
        torch.set_num_threads(threads)
    sha256 = sha256_of(checkpoint)
    if sha256 != tracker.bundle.manifest.checkpoint.sha256:
        err.print(
            f"note: {ours.side.path} was not exported from {checkpoint}; times can be compared, answers cannot",
            markup=False,
        )
    # A bundle's folder may be called torch as well.
    name = TORCH if ours.side.name != TORCH else "PyTorch"
    side = Side(name, str(checkpoint), tracker.spec.name, "fp32", f"torch {torch.__version__} (cpu)", sha256, load)
    return _Loaded(side, tracker.spec, torch_candidate(name, model, tracker.bundle.manifest.sizes))


def _versions() -> dict[str, str]:
    from etam_edge.cli.doctor import PACKAGES, look_up

    found = {package.name: look_up(package).version for package in PACKAGES}
    return {name: version for name, version in found.items() if version is not None}


def _command(
    bundle: Path,
    source: str | None,
    frame_size: str | None,
    objects: str,
    frames: int,
    warm_up: int,
    against: str | None,
    checkpoint: Path | None,
) -> str:
    """The call that measures the same again, without the options of runtimes."""
    options = {
        "source": source,
        "frame-size": frame_size,
        "objects": objects,
        "frames": frames,
        "warm-up": warm_up,
        "against": against,
        "checkpoint": checkpoint,
    }
    given = [word for name, value in options.items() if value is not None for word in (f"--{name}", str(value))]
    return shlex.join(["etam-edge", "bench", str(bundle), *given])


def _runtime_options(
    runtime: str,
    provider: str,
    against_runtime: str,
    against_provider: str,
    threads: int | None,
    resize: str,
    against_resize: str,
) -> str:
    """Those that were given, each after a space."""
    options = {
        "runtime": runtime,
        "provider": provider,
        "against-runtime": against_runtime,
        "against-provider": against_provider,
        "threads": threads,
        "resize": resize,
        "against-resize": against_resize,
    }
    given = {name: value for name, value in options.items() if value not in ("auto", "exact", None)}
    return "".join(f" --{name} {shlex.quote(str(value))}" for name, value in given.items())


def _write(target: Path, result: Benchmark) -> None:
    """
    Raises:
        InputError: it cannot be written.
    """
    from etam_edge.atomic import atomic_directory
    from etam_edge.benchmark.plots import latency_plot, stage_plot

    latency, stages, text = latency_plot(result), stage_plot(result), result.to_json()
    with atomic_directory(target, True, FIGURES, "benchmark") as draft:
        (draft / FIGURES).write_text(text, encoding="utf-8")
        (draft / LATENCY).write_bytes(latency)
        (draft / STAGES_PLOT).write_bytes(stages)


def _name_next(bundle: Path, against: str | None) -> None:
    from etam_edge.cli.console import next_command

    if against is None:
        next_command(f"{shlex.join(['etam-edge', 'bench', str(bundle)])} --against BUNDLE   (or torch)")
    elif against == TORCH:
        next_command(f"{shlex.join(['etam-edge', 'track', str(bundle)])} VIDEO --point X,Y")
    else:
        words = ["etam-edge", "check", str(bundle), "--reference", against]
        next_command(f"{shlex.join(words)} --clips CLIPS   (what it costs)")
