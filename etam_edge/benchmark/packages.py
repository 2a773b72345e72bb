"""Packages that parts of etam-edge need: what each is for, how it is installed, and what is installed here.

Packages are found by their metadata, which is fast. Only onnxruntime is imported, because only it can say which devices
it was built for.
"""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass, field
from importlib import metadata


@dataclass(frozen=True)
class Package:
    """A package that some part of etam-edge needs.

    Attributes:
        name: its usual name.
        module: name of the module to import.
        enables: what it is needed for.
        install: the command that installs it.
        distributions: names of the distributions that provide it, if they differ from `name`.
    """

    name: str
    module: str
    enables: str
    install: str
    distributions: tuple[str, ...] = ()


def extra(name: str) -> str:
    """The command that installs an extra of this package."""
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
        extra("onnxruntime"),
        ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml"),
    ),
    Package("openvino", "openvino", "tracking with OpenVINO on an x86 CPU", extra("openvino")),
    Package("av", "av", "videos, cameras and streams", extra("video")),
    Package(
        "opencv",
        "cv2",
        "overlays, and the check",
        extra("video"),
        (
            "opencv-python-headless",
            "opencv-python",
            "opencv-contrib-python-headless",
            "opencv-contrib-python",
            "opencv",
        ),
    ),
    Package("matplotlib", "matplotlib", "the plots of check, sensitivity and bench", extra("check")),
    Package("torch", "torch", "export", extra("export")),
    Package("onnx", "onnx", "export", extra("export")),
    Package("onnxslim", "onnxslim", "export", extra("export")),
    Package("onnx_ir", "onnx_ir", "export", extra("export"), ("onnx-ir",)),
    Package("huggingface_hub", "huggingface_hub", "downloading checkpoints", extra("export"), ("huggingface-hub",)),
    Package(
        "tensorrt",
        "tensorrt",
        "building and running engines",
        "pip install tensorrt (on a Jetson it comes with JetPack)",
        ("tensorrt", "tensorrt-cu13", "tensorrt-cu12", "tensorrt-cu11"),
    ),
    Package("tensorrt_rtx", "tensorrt_rtx", "compiling engines for RTX machines", extra("rtx"), ("tensorrt-rtx",)),
    Package("pycuda", "pycuda", "running engines, it or cuda-bindings", "pip install pycuda"),
    Package("cuda-bindings", "cuda.bindings", "running engines, it or pycuda", "pip install cuda-bindings"),
)
"""All of them, in the order of the report."""


@dataclass(frozen=True)
class Installed:
    """The state of a package on this machine.

    Attributes:
        version: None if the package is not installed; "unknown" if it can be imported and has no version.
        problem: why it cannot be used, or "".
        detail: more about it, for example onnxruntime's providers.
    """

    version: str | None
    problem: str = ""
    detail: list[str] = field(default_factory=list)

    @property
    def usable(self) -> bool:
        """Whether it is installed and has no problem."""
        return self.version is not None and not self.problem


def look_up(package: Package) -> Installed:
    """Find a package without importing it (onnxruntime excepted)."""
    version = installed_version(package.distributions or (package.name,))
    try:
        spec = importlib.util.find_spec(package.module)
    except (ImportError, ValueError):
        spec = None
    # A folder of that name in the working directory is found as a module too, without an origin.
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


def installed_version(distributions: tuple[str, ...]) -> str | None:
    """Version of the first of these distributions that is installed, or None."""
    for name in distributions:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def _oldest_version(package: Package) -> str | None:
    """The oldest version of a package that the requirements of etam-edge accept, or None."""
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
    """(2, 13, 0) of "2.13.0+cpu" and of "2.13.0rc1"; trailing zeros are dropped."""
    match = re.match(r"\d+(\.\d+)*", version)
    numbers = [int(part) for part in match[0].split(".")] if match else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)
