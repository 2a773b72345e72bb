"""Exported bundles, kept between tests and between test runs.

Tracing and verifying a model takes much longer than loading its bundle, and many tests need the same bundle. A bundle
is exported again only when something that it depends on has changed: the sources of the exporters, the packages that
trace and verify it, or the weights. Bundles are kept in `.cache/etam-edge-tests` of the checkout, or in the folder that
the environment variable `ETAM_EDGE_TEST_CACHE` names.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCES = (
    "etam_edge/*.py",
    "etam_edge/bundle/**/*.py",
    "etam_edge/calibration/**/*.py",
    "etam_edge/exporters/**/*.py",
    "etam_edge/model/**/*.py",
    "etam_edge/runtimes/backends/**/*.py",
    "etam_edge/weights/*",
    "etam_edge/workflows/export.py",
    "etam_edge_testing/bundle_cache.py",
    "etam_edge_testing/golden_runs.py",
    "etam_edge_testing/goldens.py",
    "etam_edge_testing/small.py",
    "tests/conftest.py",
    "tests/data/parity/*.json",
    "tests/data/parity/*.py",
)
"""Files that decide what an exported bundle contains, as patterns relative to the checkout."""
PACKAGES = ("torch", "onnx", "onnx-ir", "onnxslim", "onnxruntime", "numpy")
KEPT_STATES = 3
"""States of the sources whose bundles are kept, the most recently used ones; older ones are deleted."""


def cached_bundle(name: str, export: Callable[[Path], object]) -> Path:
    """Return the path of a bundle, exported now if the cache does not have it. Safe under pytest-xdist.

    Tests must not change the bundle: one that writes into a bundle works on a copy.

    Args:
        name: name of the bundle in the cache, unique for its weights, sizes and options.
        export: writes the bundle to the path it is called with, atomically.
    """
    folder = _cache() / source_hash()
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        _delete_old_states(folder)
    os.utime(folder)
    path = folder / name
    with open(folder / f"{name}.lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.is_dir():
            export(path)
    return path


@lru_cache(maxsize=1)
def source_hash() -> str:
    """Return a hash of the sources and the package versions that exported bundles depend on."""
    digest = hashlib.sha256(repr(sys.version_info[:2]).encode())
    for package in PACKAGES:
        digest.update(f"{package} {_version(package)}\n".encode())
    for file in _source_files():
        digest.update(f"{file.relative_to(ROOT)}\n".encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def _cache() -> Path:
    return Path(os.environ.get("ETAM_EDGE_TEST_CACHE", ROOT / ".cache" / "etam-edge-tests"))


def _source_files() -> Iterator[Path]:
    for pattern in SOURCES:
        yield from sorted(ROOT.glob(pattern))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _delete_old_states(current: Path) -> None:
    states = sorted(current.parent.iterdir(), key=lambda state: state.stat().st_mtime, reverse=True)
    for state in [state for state in states if state != current][KEPT_STATES - 1 :]:
        shutil.rmtree(state, ignore_errors=True)
