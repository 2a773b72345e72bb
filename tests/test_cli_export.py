"""`etam-edge export` and `inspect`, driven as a user would drive them, with a checkpoint file of seeded weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from etam_edge.bundle import Bundle
from etam_edge.cli.app import app
from etam_edge.spec import MODELS, Pooling
from etam_edge_testing.goldens import seeded_state_dict
from etam_edge_testing.refusals import refused
from etam_edge_testing.small import small_model, small_spec

torch = pytest.importorskip("torch")

SMALL = small_spec(Pooling.NONE)
OFFICIAL = "efficienttam_ti_512x512"
CHAIR = Path(__file__).parent / "data" / "chair"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)])


@pytest.fixture(scope="module", params=[SMALL.name, pytest.param(OFFICIAL, marks=pytest.mark.full)])
def variant(request: pytest.FixtureRequest) -> Iterator[str]:
    """Name of the model that is exported: the small one as if it were an official variant, or an official variant."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, SMALL.name, SMALL)
        yield request.param


@pytest.fixture(scope="module")
def checkpoint(variant: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint file in the form of the published ones, with seeded weights, named after its model."""
    path = tmp_path_factory.mktemp("checkpoint") / f"{variant}.pt"
    if variant == SMALL.name:
        weights = small_model(SMALL.pooling).state_dict()
    else:
        weights = {name: torch.from_numpy(value) for name, value in seeded_state_dict(variant, seed=11).items()}
    torch.save({"model": weights}, path)
    return path


@pytest.fixture(scope="module")
def command_export(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """The bundle that `etam-edge export` writes without --model (the file is named after it), and its output."""
    path = tmp_path_factory.mktemp("export") / "bundle"
    result = run("export", "--checkpoint", checkpoint, "--output", path)
    assert result.exit_code == 0, result.exception
    return path, result


@pytest.fixture
def bundle(command_export: tuple[Path, Result]) -> Path:
    return command_export[0]


def test_export_says_how_close_it_is_and_what_comes_next(command_export: tuple[Path, Result]) -> None:
    path, result = command_export
    assert "differs from the PyTorch model by at most" in result.output
    assert f"next: etam-edge track {path}" in result.output


def test_export_writes_a_whole_bundle(bundle: Path, checkpoint: Path, variant: str) -> None:
    manifest = Bundle.load(bundle).manifest
    assert manifest.model.name == variant
    assert manifest.precision == "fp32"
    assert manifest.approximation is None
    assert manifest.checkpoint.name == checkpoint.name
    assert len(manifest.checkpoint.sha256) == 64


def test_inspect_tells_what_a_bundle_is(bundle: Path, variant: str) -> None:
    result = run("inspect", bundle)
    assert result.exit_code == 0, result.exception
    for text in (variant, "fp32", "encode", "remember", "bank_keys", "image_features", "next: etam-edge track"):
        assert text in result.output
    fields = json.loads(run("inspect", bundle, "--json").stdout)
    assert fields["model"]["name"] == variant
    refused(run("inspect", bundle / "graphs"), "is not a bundle")


def test_exported_bundle_tracks_a_video(bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    prompt = ("--mask", CHAIR / "Annotations" / "frame_000000.png")
    result = run("track", bundle, CHAIR / "chair.mp4", *prompt, "--scores", tmp_path / "s.jsonl", "--max-frames", 3)
    assert result.exit_code == 0, result.exception
    lines = [json.loads(line) for line in (tmp_path / "s.jsonl").read_text().splitlines()]
    assert [line["frame_index"] for line in lines] == [0, 1, 2]
    assert lines[0]["objects"][0]["object_score"] == 10.0


def test_unpooled_variant_pooled_on_request_is_called_an_approximation(
    checkpoint: Path, variant: str, tmp_path: Path
) -> None:
    options = ("--pool", "2x2", "--conditioning-frames", 3, "--max-points", 4)
    result = run("export", "--model", variant, "--checkpoint", checkpoint, *options, "--output", tmp_path / "b")
    assert result.exit_code == 0, result.exception
    manifest = Bundle.load(tmp_path / "b").manifest
    assert manifest.model.pooling is Pooling.SCORE_BIAS
    assert manifest.approximation is not None
    assert "approximation" in result.output
    assert manifest.sizes.conditioning_frames == 3
    assert manifest.sizes.max_points == 4
    assert "trained unpooled" in run("inspect", tmp_path / "b").output


def test_wrong_calls_are_refused_before_any_work(bundle: Path, checkpoint: Path, variant: str, tmp_path: Path) -> None:
    here = ("--output", tmp_path / "b")
    refused(run("export", "--model", "efficienttam_xl", *here), "no model is named 'efficienttam_xl'")
    renamed = tmp_path / "mine.pt"
    os.link(checkpoint, renamed)
    refused(run("export", "--checkpoint", renamed, *here), "cannot be told from its name; add --model NAME")
    refused(run("export", "--model", variant, "--checkpoint", tmp_path / "no.pt", *here), "there is no checkpoint at")
    refused(run("export", "--model", "efficienttam_ti_2", "--pool", "2x2", *here), "is pooled already")
    refused(run("export", "--checkpoint", checkpoint, "--output", bundle), "already holds a bundle; add --overwrite")
    refused(run("export", "--checkpoint", checkpoint, "--output", checkpoint), "is a file")
    refused(run("export", "--checkpoint", checkpoint, "--conditioning-frames", 0, *here), "at least 1")
    refused(run("export", "--checkpoint", checkpoint, "--max-points", 1, *here), "at least 2")
    assert run("export", "--checkpoint", checkpoint, "--precision", "int3", *here).exit_code == 2
    assert not (tmp_path / "b").exists()


def test_checkpoint_of_another_variant_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    refused(
        run("export", "--model", "efficienttam_s_512x512", "--checkpoint", checkpoint, "--output", tmp_path / "b"),
        "has ViT width 384",
    )
    assert list(tmp_path.iterdir()) == []


def test_graphs_that_answer_otherwise_are_not_written(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The verification can fail: with two time codes swapped in the graphs, nothing is written."""
    from etam_edge.exporters.graphs import static_memory

    table = static_memory.time_code_table

    def swapped(*arguments: object) -> torch.Tensor:
        rows = table(*arguments)  # type: ignore[arg-type]
        return rows[[1, 0, *range(2, len(rows))]]

    monkeypatch.setattr(static_memory, "time_code_table", swapped)
    result = run("export", "--checkpoint", checkpoint, "--output", tmp_path / "b")
    refused(result, "differ from those of the PyTorch model")
    assert list(tmp_path.iterdir()) == []


def test_users_mistake_shows_one_line_and_no_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "etam_edge", "inspect", str(tmp_path / "nowhere")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("etam-edge: there is no bundle at")
    assert len(done.stderr.splitlines()) == 1
