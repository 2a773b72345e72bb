"""Which module may import which, and how much an import loads."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import etam_edge

PACKAGE = Path(etam_edge.__file__).parent
FOUNDATION = {"errors", "atomic", "cpu", "filesystem", "interrupts", "json_fields", "plotting", "printable"}
FOUNDATION |= {"recipe", "regular_files", "spec"}
"""Modules outside every room. Every room may import them."""
CUDA, ONNXRUNTIME, OPENVINO, TENSORRT = (
    f"runtimes.backends.{name}" for name in ("cuda", "onnxruntime", "openvino", "tensorrt")
)
BACKENDS = {"runtimes.backends", ONNXRUNTIME, OPENVINO, TENSORRT}
RUNTIMES = {"bundle", "runtimes", "runtimes.backends"}
WORK = {"exporters", "calibration", "evaluation", "benchmark", "live", "machine_test", "media", *RUNTIMES}
ALLOWED: dict[str, set[str]] = {
    "bundle": set(),
    "model": set(),
    "runtimes": {"bundle", *BACKENDS},
    "runtimes.backends": {"bundle"},
    ONNXRUNTIME: {"bundle", "runtimes.backends"},
    OPENVINO: {"bundle", "runtimes.backends", ONNXRUNTIME},
    CUDA: {"runtimes.backends"},
    TENSORRT: {"bundle", "runtimes.backends", CUDA},
    "media": RUNTIMES,
    "live": {"media", *RUNTIMES},
    "calibration": {"exporters", "media", *RUNTIMES, ONNXRUNTIME},
    "exporters": {"model", *RUNTIMES, ONNXRUNTIME, TENSORRT},
    "evaluation": {"media", *RUNTIMES},
    "benchmark": {"media", "model", *RUNTIMES, ONNXRUNTIME, OPENVINO},
    "machine_test": {"benchmark", "exporters", *RUNTIMES, TENSORRT, CUDA},
    "workflows": WORK | BACKENDS | {CUDA},
    # Commands call workflows. `track` is a loop of its own over a source and a session.
    "cli": {"workflows", "bundle", "media", "runtimes"},
    "weights": set(),
}
"""Rooms that each room may import, besides itself. `runtimes.backends` is base.py and the modules beside it."""
ALLOWED_OF_MODULES = {
    "etam_edge/__init__.py": {"bundle", "runtimes", "media", "workflows"},
    "etam_edge/__main__.py": {"cli"},
}
"""Rooms that the modules outside every room may import, besides the foundation."""
HEAVY = {"torch", "onnx", "onnxslim", "onnx_ir", "onnxruntime", "openvino", "tensorrt", "pycuda"}
HEAVY |= {"av", "cv2", "matplotlib", "huggingface_hub"}
"""Packages that take long to import, or that a robot does not have."""


def run(code: str) -> str:
    """The standard output of Python code in a process of its own."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    return done.stdout.strip()


def room_of(module: tuple[str, ...]) -> str:
    """The longest room name that a module, by its dotted parts below `etam_edge`, lies in."""
    names = (".".join(module[:length]) for length in range(len(module), 0, -1))
    return next((name for name in names if name in ALLOWED), module[0])


def imported_modules(path: Path) -> Iterator[tuple[str, ...]]:
    """Modules of this package that a file imports anywhere in it, by their dotted parts below `etam_edge`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            # The imported names too: `from etam_edge import spec` imports a module.
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            top, *parts = name.split(".")
            if top == "etam_edge" and parts and is_module(parts):
                yield tuple(parts)


def is_module(parts: list[str]) -> bool:
    return (PACKAGE / parts[0]).is_dir() or (PACKAGE / f"{parts[0]}.py").is_file()


def imported_rooms(path: Path) -> set[str]:
    return {room_of(module) for module in imported_modules(path)} - FOUNDATION


def own_files(room: str) -> list[Path]:
    """Files of a room, without those of the rooms inside it."""
    files = (PACKAGE / room.replace(".", "/")).rglob("*.py")
    return [path for path in files if room_of(path.relative_to(PACKAGE).with_suffix("").parts) == room]


@pytest.mark.parametrize("room", ALLOWED)
def test_rooms_import_only_what_they_may(room: str) -> None:
    for path in own_files(room):
        assert imported_rooms(path) - {room} <= ALLOWED[room], path


def test_every_room_has_a_rule() -> None:
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir() and list(path.glob("*.py"))}
    assert rooms <= set(ALLOWED)
    backends = {f"runtimes.backends.{path.parent.name}" for path in PACKAGE.glob("runtimes/backends/*/__init__.py")}
    assert backends <= set(ALLOWED)


def test_the_rules_have_no_circles() -> None:
    """Rooms can be put in an order in which each imports only rooms before it."""
    left = dict(ALLOWED)
    while free := [room for room in left if not left[room] & set(left) - {room}]:
        for room in free:
            del left[room]
    # `runtimes` imports its backends, and they import no more of it than `runtimes.backends`.
    assert not left


def test_modules_outside_the_rooms_import_only_what_they_may() -> None:
    for path in PACKAGE.glob("*.py"):
        allowed = ALLOWED_OF_MODULES.get(f"etam_edge/{path.name}", set())
        assert imported_rooms(path) <= allowed, path


def test_a_forbidden_import_is_found(tmp_path: Path) -> None:
    file = tmp_path / "module.py"
    file.write_text(
        "from etam_edge import spec, calibration\n"
        "from etam_edge.runtimes.backends.cuda.open import open_device\n"
        "def load():\n    import etam_edge.cli.app\n"
    )
    assert imported_rooms(file) == {"calibration", "runtimes.backends.cuda", "cli"}


def test_runtimes_never_import_torch_or_onnx() -> None:
    files = sorted((PACKAGE / "runtimes").rglob("*.py"))
    names = [".".join(("etam_edge", *path.relative_to(PACKAGE).with_suffix("").parts)) for path in files]
    modules = [name.removesuffix(".__init__") for name in names]
    assert len(modules) > 20
    code = f"import sys, {', '.join(modules)}; print(sorted({HEAVY} & set(sys.modules)))"
    assert run(code) == "[]"


def test_public_names_are_there_and_few() -> None:
    assert len(etam_edge.__all__) <= 20
    assert dir(etam_edge) == sorted(etam_edge.__all__)
    for name in etam_edge.__all__:
        assert getattr(etam_edge, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = etam_edge.nonsense


def loaded_by(code: str) -> set[str]:
    """Names of all modules that are loaded after some code has run in a process of its own."""
    return set(json.loads(run(f"import sys, json\n{code}\nprint(json.dumps(sorted(sys.modules)))").splitlines()[-1]))


def third_party(modules: set[str]) -> set[str]:
    """Packages among modules that are not of the standard library, without private ones and without this package."""
    own_tools = {"etam_edge", "sitecustomize", "usercustomize"}
    names = {module.split(".")[0] for module in modules}
    return {name for name in names - own_tools - set(sys.stdlib_module_names) if not name.startswith("_")}


# Which modules are loaded decides how long `--help` and an import take, and does not depend on how busy the machine is.
HELP = (
    "import contextlib, io, runpy; sys.argv = ['etam-edge', '--help']\n"
    "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()) as shown:\n"
    "    runpy.run_module('etam_edge', run_name='__main__')\n"
    "assert 'export' in shown.getvalue()"
)


def test_help_loads_no_heavy_package() -> None:
    modules = loaded_by(HELP)
    assert "etam_edge.cli.app" in modules
    assert not third_party(modules) & (HEAVY | {"numpy", "PIL"})
    # 0.3 s on an idle x86 core of 2023 at 380 modules.
    assert len(modules) < 450


def test_imports_load_little() -> None:
    bare, package, runtimes = loaded_by(""), loaded_by("import etam_edge"), loaded_by("import etam_edge.runtimes")
    assert third_party(package - bare) == set()
    assert len(package - bare) < 40
    assert third_party(runtimes - bare) == {"numpy", "PIL"}
    assert len(runtimes - bare) < 300


def test_links_at_the_top_lead_to_the_rooms() -> None:
    root = PACKAGE.parent
    if not (root / "pyproject.toml").exists():
        pytest.skip("installed away from its repository")
    for room in ("exporters", "runtimes", "calibration"):
        assert (root / room).resolve() == PACKAGE / room
