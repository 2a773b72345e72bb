"""Precisions made by `export` and `quantize`, `sensitivity` and `check`, with trained weights on drawn frames."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from etam_edge.bundle import MANIFEST, Bundle, sha256_of
from etam_edge.cli.app import app
from etam_edge.recipe import FP16, FP32, INT8, REGIONS
from etam_edge_testing import refusals
from etam_edge_testing.bundle_cache import cached_bundle
from etam_edge_testing.davis import write_crossing

onnx = pytest.importorskip("onnx")
pytest.importorskip("torch")
pytest.importorskip("matplotlib")

FRAMES = 22
CPU = ("--float-precision", "fp32")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)], env={"COLUMNS": "200", "HF_HUB_OFFLINE": "1"})


def done(*arguments: object) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, (result.exception, result.output)
    return result.output


def refused(sentence: str, *arguments: object) -> None:
    refusals.refused(run(*arguments), sentence)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The drawn clip's first frames in DAVIS layout: a ball and a box."""
    root = tmp_path_factory.mktemp("clips")
    write_crossing(root, FRAMES)
    return root


@pytest.fixture(scope="module")
def fp32(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cached = cached_bundle("nano", lambda path: done("export", "--output", path))
    return Path(shutil.copytree(cached, tmp_path_factory.mktemp("nano") / "fp32"))


@pytest.fixture(scope="module")
def recording(fp32: Path, clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("nano") / "recording"
    done("record", fp32, clips, "--output", path, "--samples", 12)
    return path


@pytest.fixture(scope="module")
def int8(recording: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("nano") / "int8"
    output = done("export", "--precision", "int8", "--calibration", recording, *CPU, "--output", path)
    assert (
        f"int8: {', '.join(('vit_windowed', 'vit_global', 'memory_layers', 'memory_scores', 'memory_keys'))}" in output
    )
    assert "calibrated on 22 frames of crossing" in output
    assert "fp16 range check" not in output, "nothing is fp16"
    assert f"next: etam-edge check {path}" in output
    return path


@pytest.mark.full
def test_fp16_needs_nothing_else_and_regions_can_be_overridden(clips: Path, fp32: Path, tmp_path: Path) -> None:
    path = tmp_path / "fp16"
    region = ("--region", "memory_encoder=fp32", "--region", "mask_decoder=fp16")
    output = done("export", "--precision", "fp16", *region, "--output", path)
    assert "fp16 range check" in output
    manifest = Bundle.load(path).manifest
    assert manifest.precision == FP16
    assert manifest.recipe.regions == {name: FP32 if name == "memory_encoder" else FP16 for name in REGIONS}
    assert set(manifest.calibration.largest) == set(REGIONS)
    assert [clip.name for clip in manifest.calibration.clips] == ["chair", "crossing"]
    shown = done("inspect", path)
    for name in REGIONS:
        assert name in shown
    assert "not checked; run: etam-edge check" in shown
    done("check", path, "--reference", fp32, "--clips", clips, "--max-drop", 0.1, "--output", tmp_path / "check")
    assert "passed: J&F drop" in done("inspect", path)


def test_int8_keeps_its_accuracy(int8: Path, fp32: Path, clips: Path, tmp_path: Path) -> None:
    output = done("check", int8, "--reference", fp32, "--clips", clips, "--output", tmp_path / "check")
    assert "passed: J&F" in output
    manifest = Bundle.load(int8).manifest
    assert manifest.precision == INT8
    assert manifest.calibration.left_float == []
    assert manifest.calibration.samples["track"] == 12


def test_quantize_makes_what_export_makes(int8: Path, fp32: Path, recording: Path, tmp_path: Path) -> None:
    path = tmp_path / "fp32-copy" / "int8"
    output = done("quantize", fp32, "--calibration", recording, *CPU, "--output", path)
    assert Bundle.load(path).identity == Bundle.load(int8).identity
    assert "calibrated on 22 frames of crossing" in output
    assert output.splitlines()[-1] == f"next: etam-edge check {path} --reference {fp32} --clips CLIPS"
    again = ("quantize", fp32, "--calibration", recording, "--output", path)
    refused("already holds a bundle; add --overwrite to replace it, or name another --output", *again)


@pytest.mark.full
def test_former_name_of_float_precision_still_works(int8: Path, fp32: Path, recording: Path, tmp_path: Path) -> None:
    path = tmp_path / "int8"
    quiet = run("quantize", fp32, "--calibration", recording, "--rest", "fp32", "--output", path, "--quiet")
    assert quiet.exit_code == 0, quiet.exception
    assert quiet.stderr == (
        "warning: --rest is now called --float-precision; the old name will be removed in the next release\n"
    )
    assert "next:" not in quiet.stdout
    assert Bundle.load(path).identity == Bundle.load(int8).identity
    assert "--rest" not in run("quantize", "--help").output


def scale_activation(model: onnx.ModelProto) -> None:
    """One activation's Q/DQ scale, sixteen times too small: what is large is cut off."""
    node = next(n for n in model.graph.node if n.op_type == "QuantizeLinear" and "self_attention" in n.output[0])
    for tensor in model.graph.initializer:
        if tensor.name == node.input[1]:
            tensor.CopyFrom(
                onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) / np.float32(16), tensor.name)
            )


def scale_weight(model: onnx.ModelProto) -> None:
    name = next(t.name for t in model.graph.initializer if t.name.endswith("norm1.weight"))
    for tensor in model.graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(onnx.numpy_helper.from_array(3 * onnx.numpy_helper.to_array(tensor), name))


def swap_time_codes(model: onnx.ModelProto) -> None:
    for tensor in model.graph.initializer:
        if tensor.name.endswith("time_codes"):
            rows = onnx.numpy_helper.to_array(tensor)
            tensor.CopyFrom(
                onnx.numpy_helper.from_array(np.ascontiguousarray(rows[[6, 5, 4, 3, 2, 1, 0, 7]]), tensor.name)
            )


@pytest.mark.parametrize("damage", [scale_activation, scale_weight, swap_time_codes])
def test_a_damaged_bundle_fails_the_check(
    damage: Callable[[onnx.ModelProto], None], int8: Path, fp32: Path, clips: Path, tmp_path: Path
) -> None:
    whole = Bundle.load(int8)
    damaged = whole.copy_to(tmp_path / "damaged")
    file = damaged.graph_path("track")
    model = onnx.load(file)
    damage(model)
    onnx.save(model, file)
    entry = dataclasses.replace(damaged.manifest.graphs["track"], sha256=sha256_of(file))
    graphs = {**damaged.manifest.graphs, "track": entry}
    (damaged.path / MANIFEST).write_text(dataclasses.replace(damaged.manifest, graphs=graphs).to_json())
    thresholds = ("--max-drop", 1.0, "--min-iou", 0.95)
    # The whole one passes where the damaged one fails.
    done("check", int8, "--reference", fp32, "--clips", clips, *thresholds, "--output", tmp_path / "whole")
    result = run("check", damaged.path, "--reference", fp32, "--clips", clips, *thresholds, "--output", tmp_path / "c")
    assert result.exit_code == 1, result.output
    assert "failed:" in result.output
    assert Bundle.load(damaged.path).manifest.accuracy.passed is False


@pytest.mark.full
def test_sensitivity_ranks_regions_in_a_table_and_a_plot(
    fp32: Path, recording: Path, clips: Path, tmp_path: Path
) -> None:
    regions = ("neck", "memory_values", "memory_keys")
    options = [part for name in regions for part in ("--region", name)]
    output = done(
        "sensitivity", fp32, "--clips", clips, "--calibration", recording, *options, "--output", tmp_path / "s"
    )
    rows = json.loads((tmp_path / "s" / "sensitivity.json").read_text())
    assert {row["region"] for row in rows} == set(regions)
    lost = [1 - row["mean_iou"] for row in rows]
    assert lost == sorted(lost)
    # Attention times values with one scale is the known danger; projections are not.
    assert rows[-1]["region"] == "memory_values"
    assert all(row["milliseconds"] > 0 and row["drop"] is not None for row in rows)
    assert all(name in output for name in regions)
    with Image.open(tmp_path / "s" / "sensitivity.png") as image:
        assert image.width > 600
    half = done(
        "sensitivity", fp32, "--clips", clips, "--precision", "fp16", "--region", "neck", "--output", tmp_path / "h"
    )
    assert "gained" not in half, "rounded graphs say nothing of time"


@pytest.mark.full
def test_mixed_keeps_regions_within_the_budget(recording: Path, clips: Path, tmp_path: Path) -> None:
    path = tmp_path / "mixed"
    given = ("--calibration", recording, "--clips", clips, *CPU)
    fixed = [
        part
        for name in ("neck", "memory_encoder", "memory_scores", "memory_keys")
        for part in ("--region", f"{name}=fp32")
    ]
    output = done("export", "--precision", "mixed", "--max-drop", 1, *given, *fixed, "--output", path)
    assert "kept" in output
    manifest = Bundle.load(path).manifest
    assert manifest.precision == "mixed"
    assert set(manifest.recipe.int8_regions) <= {"vit_windowed", "vit_global", "memory_layers"}
    trial = manifest.calibration.trials[-1]
    assert set(trial["regions"]) == set(manifest.recipe.int8_regions)
    assert trial["drop"] <= 1
    assert len(manifest.calibration.sensitivity) == 3


def test_wrong_calls_are_refused_before_any_work(
    fp32: Path, int8: Path, recording: Path, clips: Path, tmp_path: Path
) -> None:
    here = ("--output", tmp_path / "b")
    refused("int8 needs calibration", "export", "--precision", "int8", *here)
    refused("int8 needs calibration", "export", "--precision", "fp16", "--region", "neck=int8", *here)
    refused("no region is named 'brain'", "export", "--precision", "fp16", "--region", "brain=fp32", *here)
    refused("fp32 needs no calibration", "export", "--calibration", clips, *here)
    refused("ask for mixed", "export", "--precision", "fp16", "--max-drop", 1, *here)
    refused(
        "there is nothing at --calibration", "export", "--precision", "int8", "--calibration", tmp_path / "no", *here
    )
    refused("--prompts names what to track", "export", "--precision", "fp16", "--prompts", tmp_path / "p.json", *here)
    mixed = ("export", "--precision", "mixed", "--calibration", clips, *here)
    refused("is not a number of points", *mixed, "--max-drop", "nan")
    short = tmp_path / "short"
    shutil.copytree(clips, short)
    for file in sorted((short / "JPEGImages" / "crossing").iterdir())[9:]:
        file.unlink()
    refused("the clips are shorter than the memory", "export", "--precision", "int8", "--calibration", short, *here)
    for file in sorted((clips / "Annotations" / "crossing").iterdir())[1:]:
        (short / "Annotations" / "crossing" / file.name).unlink(missing_ok=True)
    shutil.copytree(clips / "JPEGImages", short / "JPEGImages", dirs_exist_ok=True)
    untrue = ("export", "--precision", "mixed", "--calibration", short, *here)
    refused("none of the clips has ground-truth masks", *untrue)
    refused("a recording has no clips to measure the drop of J&F on", *untrue[:4], recording, *here)
    refused("is int8; record with an fp32 bundle", "record", int8, clips, "--output", tmp_path / "r")
    refused("no region is named 'brain'", "sensitivity", fp32, "--clips", clips, "--region", "brain")
    refused("there are no clips at", "sensitivity", fp32, "--clips", tmp_path / "none")
    assert not (tmp_path / "b").exists()


def test_empty_and_foreign_calibration_is_refused_and_nothing_is_written(tmp_path: Path, recording: Path) -> None:
    (tmp_path / "empty").mkdir()
    here = ("--output", tmp_path / "b")
    refused("holds no clips", "export", "--precision", "int8", "--calibration", tmp_path / "empty", *here)
    other = ("--conditioning-frames", 3)
    refused(
        "was recorded with graphs of other sizes",
        "export",
        "--precision",
        "int8",
        "--calibration",
        recording,
        *other,
        *here,
    )
    assert not (tmp_path / "b").exists()
