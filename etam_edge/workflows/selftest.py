"""The self-test: whether a bundle runs on this machine as it should, and how fast."""

from __future__ import annotations

import json
import math
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from etam_edge import __version__
from etam_edge.atomic import atomic_directory, check_target
from etam_edge.benchmark.machine import look_at_machine
from etam_edge.benchmark.packages import PACKAGES, look_up
from etam_edge.bundle import GRAPH_NAMES, Bundle
from etam_edge.bundle.engines import FLAVOURS, FOLDER, built_for, writing_engines
from etam_edge.bundle.memory import graph_memory
from etam_edge.bundle.targets import THIS_MACHINE, find_target
from etam_edge.errors import InputError
from etam_edge.machine_test.answers import Answers
from etam_edge.machine_test.steps import Settings
from etam_edge.machine_test.supervise import PASSED, SKIPPED, Step, StepResult, run_steps
from etam_edge.runtimes.tracker import RUNTIMES
from etam_edge.workflows.build import choose_workspace
from etam_edge.workflows.clips import PathLike
from etam_edge.workflows.doctor import ROOT
from etam_edge.workflows.progress import ProgressCallback, Stage

FIGURES, TABLE = "selftest.json", "selftest.md"
LIMITS = {
    "machine": 120.0,
    "bundle": 60.0,
    "cuda": 60.0,
    "parse": 120.0,
    "build": 900.0,
    "load": 120.0,
    "graph": 60.0,
    "answers": 300.0,
    "resume": 300.0,
    "sessions": 300.0,
    "time": 900.0,
}
"""Seconds that a step may take, by the first word of its name."""
MAX_OBJECTS = 2
"""Objects of the engines that are built: two are tracked."""
PLAIN = "time without CUDA graphs"


@dataclass(frozen=True)
class SelfTestResult:
    """A self-test that was run.

    Attributes:
        bundle: that was tested.
        runtime: that was tested, for example "tensorrt".
        steps: in order.
        machine, versions: of this computer and its packages.
        files: JSON and table that were written; empty without `output`.
    """

    bundle: Bundle
    runtime: str
    steps: tuple[StepResult, ...]
    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    files: tuple[Path, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every step passed: one that was skipped has not."""
        return all(step.status == PASSED for step in self.steps)

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Header and a row for every step, as texts."""
        rows = [
            [one.name, one.status, "" if one.status == SKIPPED else f"{one.seconds:.1f}", one.text]
            for one in self.steps
        ]
        return ["step", "result", "s", "found"], rows

    def to_dict(self) -> dict[str, Any]:
        """Everything, in types that JSON has."""
        manifest = self.bundle.manifest
        return {
            "etam_edge": __version__,
            "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "bundle": str(self.bundle.path),
            "identity": self.bundle.identity,
            "model": manifest.model.name,
            "precision": manifest.precision,
            "runtime": self.runtime,
            "passed": self.passed,
            "machine": dict(self.machine),
            "versions": dict(self.versions),
            "steps": [asdict(step) for step in self.steps],
        }


def selftest(
    bundle: Bundle | PathLike,
    *,
    runtime: str = "auto",
    provider: str = "auto",
    device: int | None = None,
    threads: int | None = None,
    write_answers: PathLike | None = None,
    against: PathLike | None = None,
    rebuild: bool = False,
    keep_engines: bool = False,
    max_objects: int = MAX_OBJECTS,
    workspace: int | None = None,
    optimization_level: int | None = None,
    external_tactics: bool = True,
    frames: int = 200,
    limits: Mapping[str, float] | None = None,
    time_limit: float | None = None,
    output: PathLike | None = None,
    progress: ProgressCallback | None = None,
) -> SelfTestResult:
    """Test whether a bundle runs on this machine as it should, step by step; a step that fails does not end the test.

    TensorRT: a GPU without TensorRT, every graph parsed, built and run, a dozen frames, saving and resuming, two
    sessions, times with and without CUDA graphs, memory. Other runtimes: the same without the parts that only TensorRT
    has. Needs NumPy, Pillow and the runtime; neither PyTorch nor onnx. Steps run in a process of their own, which is
    ended when one takes too long.

    Args:
        bundle: of any precision, or its path.
        runtime: as of `Tracker.load`; "auto" is TensorRT where it and a GPU are there, else ONNX Runtime.
        provider, device, threads: as of `Tracker.load`.
        write_answers: path of an .npz file for what this runtime answers.
        against: path of such a file, of the same bundle; the test fails if answers differ by more than the precision
            allows (`etam_edge.machine_test.answers.TOLERANCES`).
        rebuild: build engines even where the bundle has some for this machine.
        keep_engines: write the engines that were built to the bundle, if the test passes.
        max_objects: most objects of the engines that are built.
        workspace: MB that a layer may use while engines are built; None for the default of `etam_edge.build`.
        optimization_level: of TensorRT's builder, 0 to 5, or None for its default. Implies `rebuild`.
        external_tactics: False builds without kernels of cuBLAS and cuDNN.
        frames: number of frames that are timed, after 50 others.
        limits: seconds that a step may take, by the first word of its name (LIMITS has the defaults).
        time_limit: seconds for all steps together; steps for which none are left are skipped.
        output: folder for selftest.json and selftest.md, or None for none.
        progress: told of the stage "selftest".

    Raises:
        InputError: an argument cannot be used, or the answers are of another bundle.
        BundleError: the bundle is missing or damaged.
    """
    from etam_edge.exporters.tensorrt.builder import BuildOptions

    if runtime not in RUNTIMES:
        raise InputError(f"`runtime={runtime}` is not known; use {', '.join(RUNTIMES[:-1])} or {RUNTIMES[-1]}")
    if frames < 1:
        raise InputError(f"`frames={frames}` times nothing; give 1 or more")
    if time_limit is not None and not time_limit > 0:
        raise InputError(f"`time_limit={time_limit:g}` is no time; give a number of seconds")
    end = math.inf if time_limit is None else time.monotonic() + time_limit
    seconds = {**LIMITS, **_checked(limits or {})}
    loaded = bundle if isinstance(bundle, Bundle) else Bundle.load(bundle)
    space = choose_workspace(find_target(THIS_MACHINE), workspace, graph_memory(loaded, max_objects))
    options = BuildOptions(max_objects, 1, space, optimization_level=optimization_level)
    if against is not None:
        Answers.load(against).check_bundle(loaded, against)
    target = None if output is None else Path(output)
    if target is not None:
        check_target(target, True, FIGURES, "self-test")

    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="etam-edge-selftest-")))
        settings = Settings(
            bundle=str(loaded.path),
            folder=str(folder),
            runtime=runtime,
            provider=provider,
            device=device,
            threads=threads,
            own_engines=False,
            max_objects=options.max_objects,
            workspace=options.workspace,
            optimization_level=options.optimization_level,
            external_tactics=external_tactics,
            frames=frames,
            against="" if against is None else str(against),
            write_answers="" if write_answers is None else str(write_answers),
        )
        stage = Stage(progress, "selftest", None)
        [first] = run_steps([Step("machine", seconds["machine"])], settings, stage.step, end)
        results = [first]
        if first.status == PASSED:
            found = first.values
            settings = replace(settings, runtime=found["runtime"])
            builds = found["runtime"] in FLAVOURS and (
                rebuild or optimization_level is not None or not found["engines"]
            )
            settings = replace(settings, own_engines=builds)
            has_graphs = bool(found.get("cuda graphs"))
            results += run_steps(_plan(found["runtime"], builds, has_graphs, seconds), settings, stage.step, end)
            if builds and keep_engines and all(one.status == PASSED for one in results):
                _keep_engines(loaded, folder)
    versions = {package.name: look_up(package).version or "" for package in PACKAGES}
    result = SelfTestResult(
        loaded,
        settings.runtime,
        tuple(results),
        asdict(look_at_machine(ROOT)),
        {name: version for name, version in versions.items() if version},
    )
    return result if target is None else replace(result, files=_write(target, result))


def _checked(limits: Mapping[str, float]) -> Mapping[str, float]:
    """
    Raises:
        InputError: a step is not known, or its limit is not positive.
    """
    for name, seconds in limits.items():
        if name not in LIMITS:
            raise InputError(f"`limit={name}` names no step; steps: {', '.join(LIMITS)}")
        if not seconds > 0:
            raise InputError(f"`limit={name}={seconds:g}` is no time; give a number of seconds")
    return limits


def _plan(runtime: str, builds: bool, has_graphs: bool, limits: Mapping[str, float]) -> list[Step]:
    """The steps after "machine"."""

    def step(name: str, *needs: str, fresh: bool = False) -> Step:
        return Step(name, limits[name.split()[0]], needs, fresh)

    steps = [step("bundle")]
    if runtime in FLAVOURS:
        steps.append(step("cuda"))
    built: list[str] = []
    if builds:
        steps.append(step("parse", "bundle", "cuda"))
        # Each graph is built even where the parser refused another: more is learnt in one run.
        built = [f"build {name}" for name in GRAPH_NAMES]
        steps += [step(name, "bundle", "cuda") for name in built]
    if runtime in FLAVOURS:
        # Each engine alone, so that it is tested where another cannot be built.
        needs = {name: (f"build {name}",) if builds else () for name in GRAPH_NAMES}
        alone = [step(f"graph {name}", "bundle", "cuda", *needs[name]) for name in GRAPH_NAMES]
        steps += [replace(alone[0], fresh=True), *alone[1:]]
        steps.append(step("load", "bundle", "cuda", *built, fresh=True))
    else:
        steps.append(step("load", "bundle"))
        steps += [step(f"graph {name}", "load") for name in GRAPH_NAMES]
    steps += [step(name, "load") for name in ("answers", "resume", "sessions", "time")]
    if has_graphs:
        steps.append(step(PLAIN, "load"))
    return steps


def _keep_engines(bundle: Bundle, folder: Path) -> None:
    """Copy the engines that were built into the bundle.

    Raises:
        InputError: the bundle cannot be written.
    """
    for platform in built_for(Bundle(folder, bundle.manifest)):
        with writing_engines(bundle, platform, overwrite=True) as draft:
            for file in sorted((folder / FOLDER / platform.fingerprint).iterdir()):
                shutil.copyfile(file, draft / file.name)


def _write(target: Path, result: SelfTestResult) -> tuple[Path, ...]:
    """
    Raises:
        InputError: it cannot be written.
    """
    with atomic_directory(target, True, FIGURES, "self-test") as draft:
        (draft / FIGURES).write_text(json.dumps(result.to_dict(), indent=1) + "\n", encoding="utf-8")
        (draft / TABLE).write_text(markdown(result), encoding="utf-8")
    return tuple(target / name for name in (FIGURES, TABLE))


def markdown(result: SelfTestResult) -> str:
    """The table of a self-test in Markdown, with what it was run on."""
    manifest, machine = result.bundle.manifest, result.machine
    gpus = ", ".join(machine["gpus"]) or "none"
    names = ("numpy", "onnxruntime", "openvino", "tensorrt", "tensorrt-rtx", "cuda-bindings", "pycuda")
    versions = ", ".join(f"{name} {result.versions[name]}" for name in names if name in result.versions)
    header, rows = result.table()
    lines: Sequence[Sequence[str]] = [header, ["---"] * len(header), *rows]
    cells = "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
    return (
        f"# Self-test of {manifest.model.name}, {manifest.precision}, in {result.runtime}: "
        f"{'passed' if result.passed else 'failed'}\n\n"
        f"CPU: {machine['cpu']}. GPU: {gpus}. Python {machine['python']}, {versions}, etam-edge {__version__}.\n\n"
        f"{cells}\n"
    )
