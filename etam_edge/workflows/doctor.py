"""What this machine can do with etam-edge: its hardware, the packages on it, and what they allow.

Nothing that is missing is an error.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from etam_edge.benchmark.machine import Machine, look_at_machine
from etam_edge.benchmark.packages import PACKAGES, Installed, extra, installed_version, look_up
from etam_edge.bundle.targets import TARGETS, THIS_MACHINE

ROOT = Path("/")
"""Directory that system files are read below."""
OLDEST_PYTHON = (3, 10)
OLDEST_L4T = 36
"""JetPack 6: the first with Python 3.10 and TensorRT 8.6."""
CAN = {
    "export": "can export",
    "track": "can track with ONNX Runtime",
    "video": "can read videos",
    "check": "can check accuracy",
    "engines": "can build and run TensorRT engines",
}
EXPORT_NEEDS = ("torch", "onnx", "onnxslim", "onnx_ir", "onnxruntime")


@dataclass(frozen=True)
class Verdict:
    """Whether something can be done here, and why not, or how."""

    able: bool
    reason: str


@dataclass(frozen=True)
class Diagnosis:
    """What was found.

    Attributes:
        version: of etam-edge, or None where it is not installed as a package.
        machine: hardware, system and drivers.
        packages: state of every package by name.
        verdicts: what can be done: "export", "track", "video", "check", "engines".
    """

    version: str | None
    machine: Machine
    packages: dict[str, Installed]
    verdicts: dict[str, Verdict]

    @property
    def next_command(self) -> str:
        """The command that usually follows."""
        return next_step(self.verdicts)

    def to_dict(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return {
            "etam-edge": self.version,
            "machine": asdict(self.machine),
            "packages": {
                package.name: {
                    **asdict(self.packages[package.name]),
                    "enables": package.enables,
                    "install": package.install,
                }
                for package in PACKAGES
            },
            "can": {name: asdict(verdict) for name, verdict in self.verdicts.items()},
            "next": self.next_command,
        }


def diagnose() -> Diagnosis:
    """Look at this machine and its packages."""
    machine = look_at_machine(ROOT)
    packages = {package.name: look_up(package) for package in PACKAGES}
    return Diagnosis(installed_version(("etam-edge",)), machine, packages, judge(machine, packages))


def judge(machine: Machine, packages: dict[str, Installed]) -> dict[str, Verdict]:
    """What can be done on a machine: "export", "track", "video", "check", "engines"."""
    unsupported = _unsupported(machine)
    if unsupported:
        return dict.fromkeys(CAN, Verdict(False, unsupported))

    def needs(names: tuple[str, ...], extras: str, note: str = "") -> Verdict:
        """`note` is the reason if nothing is missing."""
        missing = [name for name in names if not packages[name].usable]
        return Verdict(not missing, f"{_listed(missing)} cannot be used: {extra(extras)}" if missing else note)

    hub = packages["huggingface_hub"].usable
    return {
        "export": needs(
            EXPORT_NEEDS, "export", "" if hub else "only from a checkpoint file: huggingface_hub is missing"
        ),
        "track": needs(("numpy", "onnxruntime"), "onnxruntime", _devices(machine, packages["onnxruntime"])),
        "video": needs(("av",), "video"),
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
    """The target of `etam-edge build` that a machine is, by the names of its board and GPU."""
    board = (machine.board or "").lower()
    if "orin nano" in board:
        return "jetson-orin-nano"
    for word, target in (("orin", "jetson-orin"), ("thor", "jetson-thor")):
        if word in board:
            return target
    return "a100" if any("a100" in gpu.lower() for gpu in machine.gpus) else THIS_MACHINE


def _devices(machine: Machine, onnxruntime: Installed) -> str:
    """The devices that the installed ONNX Runtime can use."""
    if not machine.gpus and machine.l4t is None:
        return "on CPU"
    if "CUDAExecutionProvider" in onnxruntime.detail:
        return "on CUDA and CPU"
    return "on CPU; for the GPU, install onnxruntime-gpu in place of onnxruntime"


def _listed(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def next_step(verdicts: dict[str, Verdict]) -> str:
    """The command that usually follows."""
    if verdicts["export"].able:
        return "etam-edge models"
    if verdicts["track"].able:
        return "etam-edge track BUNDLE VIDEO --point X,Y"
    return extra("all")


def _unsupported(machine: Machine) -> str:
    """Why a machine cannot run etam-edge at all, or ""."""
    if machine.l4t is not None and int(machine.l4t.split(".")[0]) < OLDEST_L4T:
        return (
            f"JetPack {machine.jetpack or 'of this age'} (Jetson Linux {machine.l4t}) is not supported, its Python and "
            "TensorRT are too old; install JetPack 6 or newer"
        )
    if tuple(int(part) for part in machine.python.split(".")[:2]) < OLDEST_PYTHON:
        oldest = ".".join(map(str, OLDEST_PYTHON))
        return f"Python {machine.python} is too old; install Python {oldest} or newer"
    return ""
