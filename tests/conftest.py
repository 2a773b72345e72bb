from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from unittest import mock

import pytest
from typer.testing import CliRunner, Result

from etam_edge.spec import Pooling
from etam_edge_testing.golden_runs import seeded_model
from etam_edge_testing.goldens import seeded_state_dict
from etam_edge_testing.small import PREBUILT, SIZES, export_small

# Before torch is imported: its idle threads sleep. Spinning, they take four times the work's time on busy cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

BundleMaker = Callable[[str, int, str], Path]
SmallBundleMaker = Callable[[Pooling], Path]
CameraBundleMaker = Callable[[tuple[int, int]], Path]


COMMAND_EXPORTS = ("efficienttam_ti_512x512", 11, "")
"""The seeded weights that are exported by the command line."""


@pytest.fixture(scope="session")
def seeded_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint file as the release publishes them, with the weights of COMMAND_EXPORTS."""
    torch = pytest.importorskip("torch")
    path = tmp_path_factory.mktemp("checkpoint") / f"{COMMAND_EXPORTS[0]}.pt"
    weights = {name: torch.from_numpy(value) for name, value in seeded_state_dict(*COMMAND_EXPORTS).items()}
    torch.save({"model": weights}, path)
    return path


@pytest.fixture(scope="session")
def command_export(seeded_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """The bundle that `etam-edge export` made of it, without --model (the file's name says it), and what it said."""
    from etam_edge.cli.app import app

    path = tmp_path_factory.mktemp("export") / "bundle"
    result = CliRunner().invoke(app, ["export", "--checkpoint", str(seeded_checkpoint), "--output", str(path)])
    assert result.exit_code == 0, result.exception
    return path, result


@pytest.fixture(scope="session")
def seeded_bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> BundleMaker:
    """Bundles of seeded official variants by (variant, seed, form), exported once a run."""
    made: dict[tuple[str, int, str], Path] = {}

    def make(variant: str, seed: int, form: str = "") -> Path:
        if (variant, seed, form) == COMMAND_EXPORTS:
            path, _ = request.getfixturevalue("command_export")
            return path
        if (variant, seed, form) not in made:
            pytest.importorskip("torch")
            from etam_edge.exporters.export import export_bundle
            from etam_edge.spec import GraphSizes

            model = seeded_model(variant, seed, form)
            path = tmp_path_factory.mktemp("bundles") / f"{variant}.{form or 'seeded'}"
            # The other forms have the plain one's graphs and other weights: verifying those once is enough. What they
            # answer is compared with the goldens, which is the stricter test.
            unverified = mock.patch("etam_edge.exporters.export.verify_graphs", return_value={})
            with unverified if form else nullcontext():
                export_bundle(model, path, GraphSizes(), {"name": f"seeded weights {seed} {form}", "sha256": ""})
            made[variant, seed, form] = path
        return made[variant, seed, form]

    return make


@pytest.fixture(scope="session")
def small_bundle(tmp_path_factory: pytest.TempPathFactory) -> SmallBundleMaker:
    """Bundles of the small model by pooling, exported once a run, or those in ETAM_EDGE_TEST_BUNDLES."""
    made: dict[Pooling, Path] = {}

    def make(pooling: Pooling) -> Path:
        if PREBUILT:
            return Path(PREBUILT) / pooling.value
        if pooling not in made:
            pytest.importorskip("torch")
            made[pooling] = export_small(pooling, tmp_path_factory.mktemp("small") / pooling.value)
        return made[pooling]

    return make


@pytest.fixture(scope="session")
def camera_bundle(tmp_path_factory: pytest.TempPathFactory) -> CameraBundleMaker:
    """Bundles of the small model, pooled by scores, that take frames of one (H, W), exported once a run."""
    made: dict[tuple[int, int], Path] = {}

    def make(frame_size: tuple[int, int]) -> Path:
        if PREBUILT:
            return Path(PREBUILT) / f"camera-{frame_size[1]}x{frame_size[0]}"
        if frame_size not in made:
            pytest.importorskip("torch")
            sizes = dataclasses.replace(SIZES, frame_size=frame_size)
            made[frame_size] = export_small(Pooling.SCORE_BIAS, tmp_path_factory.mktemp("camera") / "bundle", sizes)
        return made[frame_size]

    return make
