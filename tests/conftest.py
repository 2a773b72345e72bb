"""Bundles that the tests share."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from etam_edge.spec import GraphSizes, Pooling
from etam_edge_testing.bundle_cache import cached_bundle
from etam_edge_testing.golden_runs import seeded_model
from etam_edge_testing.goldens import Golden
from etam_edge_testing.small import PREBUILT, SIZES, export_small

# A run that a shell started in the background ignores Ctrl-C, and so would the commands that tests interrupt.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Set before torch is imported. Idle OpenMP threads sleep instead of spinning, and each of pytest-xdist's workers, which
# share the cores, computes in one thread.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

BundleMaker = Callable[[str, int, str], Path]
SmallBundleMaker = Callable[[Pooling], Path]
CameraBundleMaker = Callable[[tuple[int, int]], Path]
QUICK_VARIANT = "efficienttam_ti_512x512"
QUICK_SCENARIOS = ("second_object_late",)
"""The goldens that `make test` runs: one official variant with plain weights, in the scenario that uses all graphs and
several objects. All others are marked `full`."""


def golden_parameters(goldens: Iterable[Golden]) -> list[Any]:
    """Goldens as parameters of a test, the ones of equal weights together."""
    return [
        pytest.param(golden, id=golden.id, marks=() if is_quick(golden) else pytest.mark.full)
        for golden in sorted(goldens, key=lambda golden: golden.weights_id)
    ]


def is_quick(golden: Golden) -> bool:
    return golden.variant == QUICK_VARIANT and golden.scenario in QUICK_SCENARIOS and not golden.form


@pytest.fixture(scope="session")
def seeded_bundle() -> BundleMaker:
    """Bundles of official variants with seeded weights, by (variant, seed, form). Tests must not change them."""

    def make(variant: str, seed: int, form: str = "") -> Path:
        pytest.importorskip("torch")
        from etam_edge.exporters.export import export_bundle

        def export(path: Path) -> None:
            # "occluded" and "sharp" change weights, not graphs: verifying the graphs of the plain form is enough. The
            # outputs of every form are compared with the goldens, which is the stricter test.
            unverified = mock.patch("etam_edge.exporters.export.verify_graphs", return_value={})
            with unverified if form else nullcontext():
                checkpoint = {"name": f"seeded weights {seed} {form}", "sha256": ""}
                export_bundle(seeded_model(variant, seed, form), path, GraphSizes(), checkpoint)

        return cached_bundle(f"{variant}-seed{seed}-{form or 'plain'}", export)

    return make


@pytest.fixture(scope="session")
def small_bundle(tmp_path_factory: pytest.TempPathFactory) -> SmallBundleMaker:
    """Bundles of the small model by pooling: copies from the cache, or the ones in ETAM_EDGE_TEST_BUNDLES."""
    copies: dict[Pooling, Path] = {}

    def make(pooling: Pooling) -> Path:
        if PREBUILT:
            return Path(PREBUILT) / pooling.value
        if pooling not in copies:
            pytest.importorskip("torch")
            cached = cached_bundle(f"small-{pooling.value}", partial(export_small, pooling))
            copies[pooling] = Path(shutil.copytree(cached, tmp_path_factory.mktemp("small") / pooling.value))
        return copies[pooling]

    return make


@pytest.fixture(scope="session")
def camera_bundle(tmp_path_factory: pytest.TempPathFactory) -> CameraBundleMaker:
    """Bundles of the small model (Pooling.SCORE_BIAS) that take frames of one size (H, W), as `small_bundle` does."""
    copies: dict[tuple[int, int], Path] = {}

    def make(frame_size: tuple[int, int]) -> Path:
        name = f"camera-{frame_size[1]}x{frame_size[0]}"
        if PREBUILT:
            return Path(PREBUILT) / name
        if frame_size not in copies:
            pytest.importorskip("torch")
            sizes = dataclasses.replace(SIZES, frame_size=frame_size)
            cached = cached_bundle(name, partial(export_small, Pooling.SCORE_BIAS, sizes=sizes))
            copies[frame_size] = Path(shutil.copytree(cached, tmp_path_factory.mktemp("camera") / "bundle"))
        return copies[frame_size]

    return make


@pytest.fixture(scope="session")
def nano_bundle() -> Path:
    """The bundle that `etam-edge export` writes: etam_nano in fp32. Not to be changed: it is cached."""
    pytest.importorskip("torch")

    def export(path: Path) -> None:
        from typer.testing import CliRunner

        from etam_edge.cli.app import app

        result = CliRunner().invoke(app, ["export", "--output", str(path)])
        assert result.exit_code == 0, result.output

    return cached_bundle("etam_nano-fp32", export)
