"""The names in the real Python bindings of several TensorRT versions, imported without TensorRT.

The wheels of the bindings are small and need TensorRT's shared libraries. Empty libraries with the right names and a
dozen symbols are enough to import the bindings and to list their names, but not to build or run anything.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

LIBRARIES = ("nvinfer", "nvonnxparser", "nvinfer_plugin", "nvparsers")
"""The last is needed by 8.6 only."""
SYMBOLS = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "getBuilderPluginRegistry",
    "getPluginRegistry",
    "createNvOnnxParser_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "getNvOnnxParserVersion",
    "initLibNvInferPlugins",
    # Needed by 8.6 only.
    "_ZN14nvcaffeparser117createCaffeParserEv",
    "_ZN14nvcaffeparser123shutdownProtobufLibraryEv",
    "_ZN11nvuffparser15createUffParserEv",
    "_ZN11nvuffparser23shutdownProtobufLibraryEv",
    "_ZN11nvuffparser8FieldMapC1EPKcPKvNS_9FieldTypeEi",
)
WAIT = 120
"""Timeout of a download or an import, in seconds."""


@dataclass(frozen=True)
class Release:
    """A version of TensorRT, and the wheel of its bindings.

    Attributes:
        name: in the tables of the tests.
        requirement: pip requirement of the wheel; "" for the installed package.
        module: name of the module.
        python: version (major, minor) of Python that the wheel needs; None for any.
    """

    name: str
    requirement: str
    module: str = "tensorrt_bindings"
    python: tuple[int, int] | None = None

    @property
    def soname(self) -> str:
        """Suffix of its libraries: the major version."""
        return self.name.split(".")[0]


RELEASES = {
    release.name: release
    for release in (
        Release("8.6", "tensorrt-bindings==8.6.1", python=(3, 10)),  # JetPack 6.0
        Release("10.3", "tensorrt-cu12-bindings==10.3.0"),  # JetPack 6.1 and 6.2
        Release("10.13", "tensorrt-cu13-bindings==10.13.3.9.post1"),  # JetPack 7.0 and 7.1
        Release("10.16", "tensorrt-cu13-bindings==10.16.1.11"),  # JetPack 7.2
        Release("11.4", "tensorrt-cu13-bindings==11.4.0.106"),  # JetPack 7.2.2
        Release("rtx", "", module="tensorrt_rtx"),
    )
}


@dataclass(frozen=True)
class Offer:
    """What a release has.

    Attributes:
        version: as the module says it.
        names: dotted names from the module on, each with its kind: "class", "method", "property" (read only),
            "settable" (a property that can be written), "value", or the number of an enum's member.
        returns: class of the value of a method or property, if its documentation names one of TensorRT's classes.
    """

    version: str
    names: dict[str, str | int]
    returns: dict[str, str]

    def has(self, name: str) -> bool:
        """Whether there is such a name; with "=" at its end, whether it can be written."""
        return self.names.get(name[:-1]) == "settable" if name.endswith("=") else name in self.names


class NotHereError(Exception):
    """The bindings cannot be had on this machine; says why."""


# Runs with the bindings alone, by any Python from 3.10 on.
LIST = r"""
import importlib, json, re, sys

def returned(text):
    match = re.search(r"-> (?:[\w.]+\[)?(?:\w+\.)*(\w+)", text or "")
    return match and match[1]

def look(prefix, thing, depth):
    for key in dir(thing):
        if key.startswith("__") and key not in ("__version__", "__name__"):
            continue
        value, name = getattr(thing, key), prefix + key
        if isinstance(value, type):
            names[name] = "class"
            if depth and value.__module__.startswith(module.__name__):
                look(name + ".", value, depth - 1)
        elif isinstance(value, property):
            names[name] = "settable" if value.fset else "property"
            returns[name] = returned(value.fget.__doc__)
        elif callable(value):
            names[name] = "method"
            returns[name] = returned(value.__doc__)
        elif hasattr(type(value), "__members__"):
            names[name] = int(value)
        else:
            names[name] = "value"

names, returns = {}, {}
module = importlib.import_module(sys.argv[1])
look("", module, 2)
returns = {name: one for name, one in returns.items() if names.get(one) == 'class'}
print(json.dumps([module.__version__, names, returns]))
"""


def offer_of(release: Release, cache: Path) -> Offer:
    """Ask a release's bindings what they have.

    Args:
        cache: folder that wheels and libraries are kept in between runs.

    Raises:
        NotHereError: a package, a Python or a compiler is missing.
    """
    if not release.requirement:
        return _ask(sys.executable, ["-c"], release, dict(os.environ))
    python = _python(release.python)
    wheel = _unpacked(_wheel(release, cache), cache)
    libraries = _libraries(release.soname, cache)
    # Without site packages: an installed TensorRT would be loaded in place of the empty libraries.
    environment = {**os.environ, "PYTHONPATH": str(wheel), "LD_LIBRARY_PATH": str(libraries)}
    return _ask(python, ["-S", "-c"], release, environment)


def _ask(python: str, options: list[str], release: Release, environment: dict[str, str]) -> Offer:
    done = subprocess.run(
        [python, *options, LIST, release.module], capture_output=True, text=True, timeout=WAIT, env=environment
    )
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1]
        if not release.requirement and last.startswith("ModuleNotFoundError"):
            raise NotHereError(f"{release.module} is not installed")
        raise AssertionError(f"the bindings of {release.name} do not import: {last}")
    return Offer(*json.loads(done.stdout.splitlines()[-1]))


def _python(wanted: tuple[int, int] | None) -> str:
    """An interpreter of a version: this one, or one in a usual place."""
    if wanted is None or sys.version_info[:2] == wanted:
        return sys.executable
    name = ".".join(map(str, wanted))
    places = sorted(Path.home().glob(f".pyenv/versions/{name}.*/bin/python"))
    for place in (f"python{name}", *map(str, places)):
        found = shutil.which(place)
        command = [found or "", "-c", f"import sys; sys.exit(sys.version_info[:2] != {wanted})"]
        if found and subprocess.run(command, capture_output=True, timeout=WAIT).returncode == 0:
            return found
    raise NotHereError(f"there is no Python {name}, which these bindings need")


_unreachable: list[str] = []
"""Why the first download failed: the others are not tried then."""


def _wheel(release: Release, cache: Path) -> Path:
    name, version = release.requirement.split("==")
    pattern = f"{name.replace('-', '_')}-{version}-cp{_tag(release)}-*.whl"
    folder = cache / "wheels"
    if not (found := sorted(folder.glob(pattern))):
        if _unreachable:
            raise NotHereError(_unreachable[0])
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--retries", "1"]
        command += ["--no-deps", "--only-binary", ":all:", "--dest", str(folder)]
        if release.python:
            command += ["--python-version", _tag(release), "--implementation", "cp", "--abi", "none"]
        done = subprocess.run([*command, release.requirement], capture_output=True, text=True, timeout=WAIT)
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["pip failed"]
            why = f"{release.requirement} cannot be downloaded ({errors[-1]})"
            # Others of it are there: the one named here is wrong, or is there no longer.
            assert re.search(r"\(from versions: (?!none)", done.stderr) is None, why
            if release.python is None:
                _unreachable.append(why)
            raise NotHereError(why)
        found = sorted(folder.glob(pattern))
    return found[0]


def _tag(release: Release) -> str:
    return "".join(map(str, release.python or sys.version_info[:2]))


def _unpacked(wheel: Path, cache: Path) -> Path:
    folder = cache / "unpacked" / wheel.stem
    if not folder.is_dir():
        draft = folder.with_name(f"{folder.name}.partial")
        shutil.rmtree(draft, ignore_errors=True)
        with zipfile.ZipFile(wheel) as content:
            content.extractall(draft)
        draft.rename(folder)
    return folder


def _libraries(soname: str, cache: Path) -> Path:
    """Write libraries whose functions return 0."""
    folder = cache / f"libraries-{soname}"
    paths = [folder / f"lib{name}.so.{soname}" for name in LIBRARIES]
    if not all(path.is_file() for path in paths):
        compiler = shutil.which("gcc") or shutil.which("cc")
        if compiler is None:
            raise NotHereError("there is no C compiler, which makes the libraries that the bindings want")
        folder.mkdir(parents=True, exist_ok=True)
        source = "".join(f"void *{symbol}(void) {{ return 0; }}\n" for symbol in SYMBOLS)
        for path in paths:
            command = [compiler, "-shared", "-fPIC", "-x", "c", f"-Wl,-soname,{path.name}", "-o", str(path), "-"]
            subprocess.run(command, input=source, text=True, capture_output=True, timeout=WAIT, check=True)
    return folder
