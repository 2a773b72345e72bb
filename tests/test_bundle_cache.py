"""The cache of exported bundles: one export for each state of the sources, whoever asks first."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from etam_edge_testing import bundle_cache
from etam_edge_testing.bundle_cache import KEPT_STATES, cached_bundle, source_hash

Export = Callable[[Path], None]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "cache"
    monkeypatch.setenv("ETAM_EDGE_TEST_CACHE", str(path))
    return path


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout of a few files, whose hash is computed anew at every call."""
    root = tmp_path / "checkout"
    (root / "etam_edge" / "model").mkdir(parents=True)
    (root / "etam_edge" / "cli").mkdir()
    monkeypatch.setattr(bundle_cache, "ROOT", root)
    monkeypatch.setattr(bundle_cache, "source_hash", source_hash.__wrapped__)
    return root


def write(path: Path) -> None:
    path.mkdir()
    with open(path / "exports", "a") as file:
        file.write("x")


def exports(path: Path) -> int:
    return len((path / "exports").read_text())


def test_a_bundle_is_exported_once(cache: Path) -> None:
    first, again, other = cached_bundle("small", write), cached_bundle("small", write), cached_bundle("large", write)
    assert first == again != other
    assert exports(first) == exports(other) == 1
    assert cache in first.parents


def test_an_export_that_fails_is_done_again() -> None:
    def fail(path: Path) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        cached_bundle("small", fail)
    assert exports(cached_bundle("small", write)) == 1


def test_a_changed_exporter_exports_again_and_a_changed_command_does_not(checkout: Path) -> None:
    first = cached_bundle("small", write)
    (checkout / "etam_edge" / "cli" / "track.py").write_text("1")
    assert cached_bundle("small", write) == first
    (checkout / "etam_edge" / "model" / "layers.py").write_text("1")
    second = cached_bundle("small", write)
    (checkout / "etam_edge" / "model" / "layers.py").write_text("2")
    assert len({first, second, cached_bundle("small", write)}) == 3


def test_other_packages_export_again(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = cached_bundle("small", write)
    monkeypatch.setattr(bundle_cache, "version", lambda package: "99.0")
    assert cached_bundle("small", write) != first


def test_the_bundles_of_old_sources_are_deleted(checkout: Path) -> None:
    paths = []
    for state in range(KEPT_STATES + 2):
        (checkout / "etam_edge" / "spec.py").write_text(str(state))
        paths.append(cached_bundle("small", write))
        os.utime(paths[-1].parent, (state, state))
    assert [path.exists() for path in paths] == [False, False, *[True] * KEPT_STATES]


def test_processes_wait_for_each_other() -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=cached_bundle, args=("small", write)) for _ in range(6)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 6
    assert exports(cached_bundle("small", write)) == 1
