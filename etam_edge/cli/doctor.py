"""`etam-edge doctor`: what this machine is, what is installed on it, and what it can therefore do.

Everything is read from package metadata and system files, so that the answer comes at once: only onnxruntime is
imported, because only it can say which devices it was built for. Nothing that is absent is an error.
"""

from __future__ import annotations

import importlib.util
import json
import re
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from etam_edge.benchmark.machine import Machine, look_at_machine
from etam_edge.bundle.targets import TARGETS, THIS_MACHINE

if TYPE_CHECKING:
    from rich.table import Table

ROOT = Path("/")
"""Where system files are read."""
OLDEST_PYTHON = (3, 10)
OLDEST_L4T = 36
"""JetPack 6: the first whose Python (3.10) and TensorRT (8.6) serve."""


@dataclass(frozen=True)
class Package:
    """A package that some part of etam-edge wants.

    Attributes:
        name: as people call it.
        module: what is imported.
        enables: what it is good for.
        install: the command that installs it.
        distributions: names under which it may be installed, where they differ from `name`.
    """

    name: str
    module: str
    enables: str
    install: str
    distributions: tuple[str, ...] = ()


def _extra(name: str) -> str:
    return f'pip install "etam-edge[{name}]"'


_CORE = "pip install etam-edge"
PACKAGES = (
    Package("numpy", "numpy", "everything", _CORE),
    Package("pillow", "PIL", "reading images, writing masks", _CORE),
    Package("typer", "typer", "the command line", _CORE),
    Package(
        "onnxruntime",
        "onnxruntime",
        "tracking, and verifying an export",
        _extra("onnxruntime"),
        ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml"),
    ),
    Package("openvino", "openvino", "tracking with OpenVINO on an x86 CPU", _extra("openvino")),
    Package(
        "opencv",
        "cv2",
        "videos, and the check",
        _extra("video"),
        (
            "opencv-python-headless",
            "opencv-python",
            "opencv-contrib-python-headless",
            "opencv-contrib-python",
            "opencv",
        ),
    ),
    Package("matplotlib", "matplotlib", "the plots of check, sensitivity and bench", _extra("check")),
    Package("torch", "torch", "export", _extra("export")),
    Package("onnx", "onnx", "export", _extra("export")),
    Package("onnxslim", "onnxslim", "export", _extra("export")),
    Package("onnx_ir", "onnx_ir", "export", _extra("export"), ("onnx-ir",)),
    Package("huggingface_hub", "huggingface_hub", "downloading checkpoints", _extra("export"), ("huggingface-hub",)),
    Package(
        "tensorrt",
        "tensorrt",
        "building and running engines",
        "pip install tensorrt (on a Jetson it comes with JetPack)",
        ("tensorrt", "tensorrt-cu13", "tensorrt-cu12", "tensorrt-cu11"),
    ),
    Package("tensorrt_rtx", "tensorrt_rtx", "compiling engines for RTX machines", _extra("rtx"), ("tensorrt-rtx",)),
    Package("pycuda", "pycuda", "running engines, it or cuda-bindings", "pip install pycuda"),
    Package("cuda-bindings", "cuda.bindings", "running engines, it or pycuda", "pip install cuda-bindings"),
)
CAN = {
    "export": "can export",
    "track": "can track with ONNX Runtime",
    "video": "can read videos",
    "check": "can check accuracy",
    "engines": "can build and run TensorRT engines",
}
EXPORT_NEEDS = ("torch", "onnx", "onnxslim", "onnx_ir", "onnxruntime")


@dataclass(frozen=True)
class Installed:
    """What was found of a package.

    Attributes:
        version: None where the package is not there; "unknown" where it is importable but says no version.
        problem: why it cannot be used, or "".
        detail: more about it, as onnxruntime's providers.
    """

    version: str | None
    problem: str = ""
    detail: list[str] = field(default_factory=list)

    @property
    def usable(self) -> bool:
        return self.version is not None and not self.problem


@dataclass(frozen=True)
class Verdict:
    able: bool
    reason: str


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False) -> None:
    """Show what this machine has and what etam-edge can do on it."""
    machine = look_at_machine(ROOT)
    packages = {package.name: look_up(package) for package in PACKAGES}
    verdicts = judge(machine, packages)
    if as_json:
        report = {
            "etam-edge": _version(("etam-edge",)),
            "machine": asdict(machine),
            "packages": {
                package.name: {
                    **asdict(packages[package.name]),
                    "enables": package.enables,
                    "install": package.install,
                }
                for package in PACKAGES
            },
            "can": {name: asdict(verdict) for name, verdict in verdicts.items()},
            "next": next_step(verdicts),
        }
        typer.echo(json.dumps(report, indent=1))
        return

    from etam_edge.cli.console import next_command, out

    out.print(_table(machine, packages))
    for package in PACKAGES:
        installed = packages[package.name]
        if not installed.usable:
            what = "is missing" if installed.version is None else installed.problem
            out.print(f"{package.name} {what}; it is for {package.enables}: {package.install}", markup=False)
    for name, verdict in verdicts.items():
        answer = "yes" if verdict.able else "no"
        out.print(f"{CAN[name]}: {', '.join(filter(None, (answer, verdict.reason)))}", markup=False)
    next_command(next_step(verdicts))


def judge(machine: Machine, packages: dict[str, Installed]) -> dict[str, Verdict]:
    """What can be done here: `export`, `track`, `video`, `check`, `engines`."""
    unsupported = _unsupported(machine)
    if unsupported:
        return dict.fromkeys(CAN, Verdict(False, unsupported))

    def needs(names: tuple[str, ...], extra: str, note: str = "") -> Verdict:
        """`note` is what is said where nothing is wanting."""
        wanting = [name for name in names if not packages[name].usable]
        return Verdict(not wanting, f"{_listed(wanting)} cannot be used: {_extra(extra)}" if wanting else note)

    hub = packages["huggingface_hub"].usable
    return {
        "export": needs(EXPORT_NEEDS, "export", "" if hub else "but only with --checkpoint FILE: no huggingface_hub"),
        "track": needs(("numpy", "onnxruntime"), "onnxruntime", _devices(machine, packages["onnxruntime"])),
        "video": needs(("opencv",), "video"),
        "check": needs(("onnxruntime", "opencv", "matplotlib"), "onnxruntime,check"),
        "engines": _engines(machine, packages),
    }


def _engines(machine: Machine, packages: dict[str, Installed]) -> Verdict:
    if not machine.gpus and machine.l4t is None:
        return Verdict(False, "there is no NVIDIA GPU")
    if not packages["tensorrt"].usable:
        return Verdict(False, "tensorrt cannot be used: pip install tensorrt (on a Jetson it comes with JetPack)")
    if not packages["pycuda"].usable and not packages["cuda-bindings"].usable:
        return Verdict(False, "neither pycuda nor cuda-bindings can be used: pip install pycuda, or cuda-bindings")
    target = TARGETS[suggested_target(machine)]
    return Verdict(True, f"etam-edge build BUNDLE --target {target.name}; {target.advice}")


def suggested_target(machine: Machine) -> str:
    """The target of `etam-edge build` that this machine is, by the names of its board and GPU."""
    board = (machine.board or "").lower()
    if "orin nano" in board:
        return "jetson-orin-nano"
    for word, target in (("orin", "jetson-orin"), ("thor", "jetson-thor")):
        if word in board:
            return target
    return "a100" if any("a100" in gpu.lower() for gpu in machine.gpus) else THIS_MACHINE


def _devices(machine: Machine, onnxruntime: Installed) -> str:
    """Where this ONNX Runtime can run a bundle."""
    if not machine.gpus and machine.l4t is None:
        return "on CPU"
    if "CUDAExecutionProvider" in onnxruntime.detail:
        return "on CUDA and CPU"
    return "on CPU; for the GPU, install onnxruntime-gpu in place of onnxruntime"


def _listed(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def next_step(verdicts: dict[str, Verdict]) -> str:
    """The command that follows."""
    if verdicts["export"].able:
        return "etam-edge models"
    if verdicts["track"].able:
        return "etam-edge track BUNDLE VIDEO --point X,Y"
    return _extra("all")


def _unsupported(machine: Machine) -> str:
    """Why this machine cannot run etam-edge at all, or ""."""
    if machine.l4t is not None and int(machine.l4t.split(".")[0]) < OLDEST_L4T:
        return (
            f"JetPack {machine.jetpack or 'of this age'} (Jetson Linux {machine.l4t}) is not supported, its Python and "
            "TensorRT are too old; install JetPack 6 or newer"
        )
    if tuple(int(part) for part in machine.python.split(".")[:2]) < OLDEST_PYTHON:
        oldest = ".".join(map(str, OLDEST_PYTHON))
        return f"Python {machine.python} is too old; install Python {oldest} or newer"
    return ""


def _table(machine: Machine, packages: dict[str, Installed]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table("what", "found", title=f"etam-edge {_version(('etam-edge',)) or ''}".strip())
    rows = {
        "system": machine.system,
        "Python": machine.python,
        "CPU": f"{machine.cpu} ({machine.instruction_set}), {machine.cores} cores",
        "memory": f"{_gibibytes(machine.memory)}, {_gibibytes(machine.memory_available)} available",
        "Jetson": _jetson(machine),
        "CUDA driver": machine.cuda_driver or "none",
        "GPU": "\n".join(machine.gpus) or "none",
    }
    for name, text in rows.items():
        table.add_row(name, Text(text))
    table.add_section()
    for name, installed in packages.items():
        parts = [installed.version or "missing", *installed.detail]
        table.add_row(name, Text("\n".join([*parts, installed.problem] if installed.problem else parts)))
    return table


def _jetson(machine: Machine) -> str:
    if machine.l4t is None:
        return "no"
    return f"{machine.board or 'yes'}, JetPack {machine.jetpack or 'unknown'}, Jetson Linux {machine.l4t}"


def _gibibytes(size: int | None) -> str:
    return "unknown" if size is None else f"{size / 2**30:.1f} GiB"


# --- packages ---------------------------------------------------------------------------------------------------------


def look_up(package: Package) -> Installed:
    """Find a package without importing it (onnxruntime excepted)."""
    version = _version(package.distributions or (package.name,))
    try:
        spec = importlib.util.find_spec(package.module)
    except (ImportError, ValueError):
        spec = None
    # A folder of that name in the working directory counts as a module too, one without an origin.
    if spec is None or spec.origin is None:
        return Installed(None)
    oldest = _oldest_version(package)
    if version is not None and oldest is not None and _numbers(version) < _numbers(oldest):
        return Installed(version, f"is older than {oldest}")
    if package.name == "onnxruntime":
        return _with_providers(version or "unknown")
    return Installed(version or "unknown")


def _with_providers(version: str) -> Installed:
    try:
        import onnxruntime

        return Installed(version, detail=list(onnxruntime.get_available_providers()))
    except Exception as error:  # A build for another machine fails in many ways when its libraries are loaded.
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return Installed(version, f"cannot be imported ({lines[0]})")


def _version(distributions: tuple[str, ...]) -> str | None:
    for name in distributions:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def _oldest_version(package: Package) -> str | None:
    """The oldest version of a package that etam-edge's own metadata accepts."""
    try:
        requirements = metadata.requires("etam-edge") or []
    except metadata.PackageNotFoundError:
        return None
    names = {_normal(name) for name in package.distributions or (package.name,)}
    for requirement in requirements:
        match = re.match(r"([\w.-]+)\s*>=\s*([\d.]+)", requirement)
        if match and _normal(match[1]) in names:
            return match[2]
    return None


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _numbers(version: str) -> tuple[int, ...]:
    """(2, 13, 0) of "2.13.0+cpu" and of "2.13.0rc1"; trailing zeros count for nothing."""
    match = re.match(r"\d+(\.\d+)*", version)
    numbers = [int(part) for part in match[0].split(".")] if match else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)
