"""Manifests that hold anything: a bundle is loaded as it was written, or refused in a sentence."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import SmallBundleMaker
from typer.testing import CliRunner

from etam_edge import Prompt, Tracker
from etam_edge.bundle import MANIFEST, Bundle
from etam_edge.cli.app import app
from etam_edge.errors import BundleError, EtamError
from etam_edge.spec import GraphSizes, ModelSpec, Pooling
from etam_edge_testing.fuzz import FACTOR, Outcomes, attempts, mutate_bytes, mutate_json
from etam_edge_testing.manifests import manifest_fields, write_manifest
from etam_edge_testing.small import SMALL, clip_frame

pytest.importorskip("onnxruntime")


@pytest.fixture
def path(small_bundle: SmallBundleMaker, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(small_bundle(Pooling.SCORE_BIAS), tmp_path / "bundle"))


@pytest.mark.parametrize(
    ("part", "field", "value", "sentence"),
    [
        ("model", "image_size", 32_000_000, "image_size must be a whole number from 1 to 4096, not 32000000"),
        ("model", "memory_frames", 10**12, "memory_frames must be a whole number from 1 to 256, not 1000000000000"),
        ("model", "vit_heads", 0, "vit_heads must be a whole number from 1"),
        ("model", "vit_heads", True, "vit_heads must be a whole number from 1"),
        ("model", "width", 64.0, "width must be a whole number from 1"),
        ("model", "name", ["small"], "its name must be a text"),
        ("model", "pooling", "mean", "pooling must be one of none, score_bias, key_bias, not 'mean'"),
        ("model", "pooling", [], "pooling must be one of"),
        ("model", "global_blocks", 2, "global_blocks must be numbers of ViT blocks"),
        ("model", "global_blocks", [2, 10**9], "global_blocks must be numbers of ViT blocks"),
        ("model", "global_blocks", [[2]], "global_blocks must be numbers of ViT blocks"),
        ("sizes", "conditioning_frames", 10**12, "conditioning_frames must be at least 1 and at most 1024"),
        ("sizes", "conditioning_frames", 1.5, "conditioning_frames must be at least 1 and at most 1024, not 1.5"),
        ("sizes", "conditioning_frames", 3, "bank_keys, bank_pointers, bank_values, pointer_bias of graph 'track'"),
        ("sizes", "max_points", "6", "max_points must be at least 2"),
        ("sizes", "padded_windows", 1, "padded_windows must be true or false"),
        ("sizes", "frame_size", [True, 99], "frame_size is"),
        ("sizes", "colour", "red", "unexpected keyword argument 'colour'"),
        ("recipe", "regions", ["neck"], "the recipe is"),
        ("recipe", "regions", {"neck": {}}, "region neck cannot be {}"),
        ("recipe", "rest", None, "float_precision cannot be None"),
        ("checkpoint", "name", 5, "name is 5, not of type str"),
        ("checkpoint", "name", "a\x1b[31mb", "name is .*, too long or with control characters"),
        ("verification", "iou", "small", "verification is .* not of type dict"),
        ("graphs", "encode", None, "graphs is .* not of type dict"),
        ("graphs", "another", {}, "'file' is missing"),
    ],
)
def test_wrong_field_is_refused(part: str, field: str, value: Any, sentence: str, path: Path) -> None:
    fields = manifest_fields(path)
    fields[part][field] = value
    write_manifest(path, fields)
    with pytest.raises(BundleError, match=sentence) as caught:
        Bundle.load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("file", "graphs/a\0b", "file is .*, too long or with control characters"),
        ("file", "/etc/hostname", "lies outside the bundle"),
        ("file", "..", "lies outside the bundle"),
        ("file", "graphs", "is missing"),
        ("file", "x" * 5000, "file is .* of 5000 characters"),
        ("file", 5, "file is 5, not of type str"),
        ("sha256", "0" * 63, "not a hash of 64 hexadecimal digits"),
        ("opset", "17", "opset is '17', not of type int"),
        ("signature", {"inputs": [], "outputs": []}, "frame, image_features of graph 'encode' are not those"),
        ("signature", {"inputs": {}, "outputs": []}, "inputs of a graph are {}"),
        ("signature", {"inputs": [{"name": "x", "dtype": "int99", "shape": []}], "outputs": []}, "has type 'int99'"),
        ("signature", {"inputs": [{"name": "x", "dtype": "uint8", "shape": [-1]}], "outputs": []}, "has shape"),
        ("signature", {"inputs": [{"name": "x", "dtype": "uint8", "shape": "abc"}], "outputs": []}, "has shape 'abc'"),
    ],
)
def test_wrong_graph_entry_is_refused(field: str, value: Any, sentence: str, path: Path) -> None:
    fields = manifest_fields(path)
    fields["graphs"]["encode"][field] = value
    write_manifest(path, fields)
    with pytest.raises(BundleError, match=sentence):
        Bundle.load(path)


@pytest.mark.parametrize("dtype", ["float16", "int32", "uint8"])
def test_other_dtype_than_the_graph_has_is_refused(dtype: str, path: Path) -> None:
    """Loaded before, and failed or read other memory in `track`."""
    fields = manifest_fields(path)
    fields["graphs"]["encode"]["signature"]["outputs"][0]["dtype"] = dtype
    write_manifest(path, fields)
    with pytest.raises(BundleError, match="image_features"):
        Bundle.load(path)


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, '{"schema": ' + "9" * 5000 + "}", '{"schema": "\\ud800"}', '{"schema": 1e999}', "", "null", "\0"],
    ids=["deep", "long", "surrogate", "infinite", "empty", "null", "NUL"],
)
def test_text_that_is_no_manifest_is_refused(text: str, path: Path) -> None:
    (path / MANIFEST).write_text(text)
    with pytest.raises(BundleError) as caught:
        Bundle.load(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs FIFOs")
def test_manifest_and_graph_that_are_no_files_are_refused(path: Path) -> None:
    graph = path / "graphs" / "encode.onnx"
    graph.unlink()
    os.mkfifo(graph)
    with pytest.raises(BundleError, match=r"encode\.onnx is missing"):
        Bundle.load(path)
    (path / MANIFEST).unlink()
    os.mkfifo(path / MANIFEST)
    with pytest.raises(BundleError, match=r"is not a bundle: it has no bundle\.json"):
        Bundle.load(path)


@pytest.mark.parametrize("name", ["image_size", "vit_width", "memory_frames", "decoder_mlp_width"])
def test_spec_in_python_is_bounded_as_well(name: str) -> None:
    for value in (0, -1, 10**400, 10**4999, "5", None, 1.0, True):
        with pytest.raises(EtamError, match=f"{name} must be a whole number from 1 to "):
            SMALL.replace(**{name: value})
    for sizes in ({"frame_size": (10**4999, 5)}, {"max_points": 10**4999}, {"frame_size": "ab"}):
        with pytest.raises(EtamError):
            GraphSizes(**sizes)  # type: ignore[arg-type]
    assert ModelSpec.from_dict(SMALL.to_dict()) == SMALL


# --- fuzzers ---


def use(path: Path, runs: bool) -> None:
    """What is done with a bundle: it is shown, and it tracks.

    Raises:
        EtamError: the bundle is refused.
    """
    bundle = Bundle.load(path)
    bundle.manifest.to_json()
    result = CliRunner().invoke(app, ["inspect", str(path)])
    if result.exception is not None and not isinstance(result.exception, EtamError):
        raise AssertionError(f"inspect: {result.exception!r}") from result.exception
    if runs:
        session = Tracker.load(path, "onnxruntime", provider="cpu", threads=1).start_session(max_objects=1)
        height, width = bundle.manifest.sizes.frame_size or (128, 128)
        session.track(clip_frame(0, height, width), {1: Prompt(points=[(5, 5)], labels=[1])})
        session.track(clip_frame(1, height, width))


def test_fuzzed_fields(path: Path) -> None:
    """One place is changed, with a hash that is right, so that only the field itself can be refused."""
    original = manifest_fields(path)
    outcomes = Outcomes()
    for source in attempts(40):
        part = source.choice([*original])
        fields = dict(original)
        changed, what = mutate_json({part: original[part]}, source)
        del fields[part]
        fields |= changed
        try:
            write_manifest(path, fields)
        except UnicodeEncodeError:
            continue
        with outcomes.attempt(what):
            use(path, runs=part in ("schema", "model", "sizes", "precision", "recipe", "graphs"))
    outcomes.check(refused=10 * FACTOR, accepted=5)


def test_fuzzed_text(path: Path) -> None:
    """Damaged bytes: the hash of the manifest leaves none of them."""
    original = (path / MANIFEST).read_bytes()
    manifest = Bundle.load(path).manifest
    outcomes = Outcomes()
    for source in attempts(60):
        damaged = mutate_bytes(original, source)
        (path / MANIFEST).write_bytes(damaged)
        with outcomes.attempt(source):
            if Bundle.load(path).manifest != manifest:
                outcomes.fail(source, "accepted with another content")
    outcomes.check(refused=40 * FACTOR)


def test_fuzzed_numbers_of_the_model(path: Path) -> None:
    """Every number of model and sizes, replaced by every boundary: nothing hangs, and nothing takes memory."""
    original = manifest_fields(path)
    outcomes = Outcomes()
    source = random.Random(0)
    numbers = [
        (part, name) for part in ("model", "sizes") for name in original[part] if name not in ("name", "pooling")
    ]
    for part, name in source.sample(numbers, min(len(numbers), 2 * FACTOR)):
        for value in (0, 1, 2, 3, 16, 64, 2**10, 2**16, 2**31, 2**63, 10**12, -1, 0.5, "1", None, [1], 10**400):
            write_manifest(path, {**original, part: {**original[part], name: value}})
            with outcomes.attempt(f"{part}.{name} = {value!r:.20}"):
                use(path, runs=True)
    outcomes.check(refused=20)
