"""What may import what, and how long it takes."""

from __future__ import annotations

import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest

import etam_edge

PACKAGE = Path(etam_edge.__file__).parent
ALLOWED = {
    "model": {"model"},
    "exporters": {"exporters", "model"},
    "runtimes": {"runtimes"},
    "media": {"media", "runtimes"},
    "calibration": {"calibration", "media", "runtimes"},
    "evaluation": {"evaluation", "calibration", "media", "runtimes"},
    "benchmark": {"benchmark", "media", "model", "runtimes"},
}
"""Rooms that the files of a room may import, besides the files that stand outside all rooms."""
SHARED = {"atomic", "bundle", "errors", "plotting", "recipe", "spec"}


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    return done.stdout.strip()


def test_runtimes_never_import_torch_or_onnx() -> None:
    heavy = "{'torch', 'onnx', 'onnxslim', 'huggingface_hub', 'cv2'}"
    modules = [
        f"etam_edge.runtimes.{path.stem}" for path in (PACKAGE / "runtimes").glob("*.py") if path.stem != "__init__"
    ]
    code = f"import sys, {', '.join(modules)}; print(sorted({heavy} & set(sys.modules)))"
    assert python(code) == "[]"


def imports_of(path: Path) -> set[str]:
    """Rooms of this package that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("etam_edge.")}
    return found


@pytest.mark.parametrize("room", ALLOWED)
def test_rooms_import_only_what_they_may(room: str) -> None:
    for path in (PACKAGE / room).rglob("*.py"):
        assert imports_of(path) <= ALLOWED[room] | SHARED, path


def test_public_names_are_there_and_few() -> None:
    assert len(etam_edge.__all__) <= 12
    for name in etam_edge.__all__:
        assert getattr(etam_edge, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = etam_edge.nonsense


def fastest(command: list[str], runs: int = 5) -> float:
    """Seconds of the fastest run: what the work costs when the machine does nothing else."""
    times = []
    for _ in range(runs):
        begin = time.perf_counter()
        subprocess.run(command, capture_output=True, timeout=60, check=True)
        times.append(time.perf_counter() - begin)
    return min(times)


def test_help_is_instant() -> None:
    assert fastest([sys.executable, "-m", "etam_edge", "--help"]) < 0.5


def test_imports_are_fast() -> None:
    bare = fastest([sys.executable, "-c", "pass"])
    assert fastest([sys.executable, "-c", "import etam_edge"]) - bare < 0.2
    assert fastest([sys.executable, "-c", "import etam_edge.runtimes"]) - bare < 0.5


def test_links_at_the_top_lead_to_the_rooms() -> None:
    root = PACKAGE.parent
    if not (root / "pyproject.toml").exists():
        pytest.skip("installed away from its repository")
    for room in ("exporters", "runtimes", "calibration"):
        assert (root / room).resolve() == PACKAGE / room
