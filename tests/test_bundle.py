"""Bundles: whole or refused, and never half-written."""

from __future__ import annotations

import dataclasses
import errno
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import SmallBundleMaker

from etam_edge.bundle import GRAPH_NAMES, MANIFEST, Accuracy, Bundle, ClipSummary, Manifest, check_target, writing
from etam_edge.errors import BundleError, InputError
from etam_edge.recipe import FP32, Recipe
from etam_edge.spec import Pooling
from etam_edge_testing.manifests import manifest_fields, write_manifest


@pytest.fixture
def path(small_bundle: SmallBundleMaker, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(small_bundle(Pooling.KEY_BIAS), tmp_path / "bundle"))


def rewrite(path: Path, **changes: Any) -> None:
    write_manifest(path, {**manifest_fields(path), **changes})


def refused(path: Path, sentence: str) -> None:
    with pytest.raises(BundleError, match=sentence):
        Bundle.load(path)


def test_manifest_survives_a_round_trip(path: Path) -> None:
    manifest = Bundle.load(path).manifest
    assert Manifest.from_json(manifest.to_json(), path) == manifest
    assert set(manifest.graphs) == set(GRAPH_NAMES)
    assert manifest.verification
    assert all(value < 1e-3 for value in manifest.verification.values())
    assert set(manifest.versions) >= {"etam-edge", "torch", "onnx", "onnxruntime"}


def test_bundle_can_be_copied(path: Path, small_bundle: SmallBundleMaker) -> None:
    assert Bundle.load(path).identity == Bundle.load(small_bundle(Pooling.KEY_BIAS)).identity
    assert Bundle.load(path).identity != Bundle.load(small_bundle(Pooling.NONE)).identity


def test_version_1_loads_as_fp32_and_is_written_as_version_2(path: Path) -> None:
    fields = manifest_fields(path)
    for name in ("recipe", "calibration", "accuracy", "answer", "sha256"):
        fields.pop(name, None)
    (path / MANIFEST).write_text(json.dumps({**fields, "schema": 1}))
    bundle = Bundle.load(path)
    assert bundle.manifest.recipe == Recipe.uniform(FP32)
    assert bundle.manifest.accuracy is bundle.manifest.calibration is None
    bundle.store_accuracy(Accuracy(passed=True))
    assert manifest_fields(path)["schema"] == "2.1"
    stored = dataclasses.replace(bundle.manifest, accuracy=Accuracy(passed=True), schema_minor=1)
    assert Bundle.load(path).manifest == stored


def test_version_2_without_hash_and_answer_loads(path: Path) -> None:
    fields = manifest_fields(path)
    for name in ("answer", "sha256"):
        fields.pop(name, None)
    (path / MANIFEST).write_text(json.dumps({**fields, "schema": 2}))
    assert Bundle.load(path).manifest.answer is None


def test_changed_manifest_is_refused(path: Path) -> None:
    """Every field is covered, also those that no reader checks."""
    fields = manifest_fields(path) | {"schema": "2.1"}
    write_manifest(path, fields)
    fields = manifest_fields(path)
    for changed in ({"created": "yesterday"}, {"schema": "2.2"}, {"colour": "red"}, {"accuracy": {"passed": True}}):
        (path / MANIFEST).write_text(json.dumps({**fields, **changed}))
        refused(path, "was changed or damaged after the bundle was written")
    del fields["sha256"]
    (path / MANIFEST).write_text(json.dumps(fields))
    refused(path, "was changed or damaged after the bundle was written")


def test_version_2_needs_a_recipe(path: Path) -> None:
    fields = manifest_fields(path)
    del fields["recipe"]
    write_manifest(path, fields)
    refused(path, "damaged or foreign")


CALIBRATION = {
    "clips": [{"name": "a", "frames": 22, "objects": 2, "fps": 30}],
    "frames": 22,
    "seed": 0,
    "samples": {"encode": 12},
    "largest": {"neck": {"value": 3.5, "where": "encode:/neck", "percentile": 3.0}},
    "left_float": [],
    "lens": "wide",
}
ACCURACY = {
    "passed": False,
    "reasons": ["the drop is 3 points"],
    "thresholds": {"max_drop": 1.0, "min_iou": None},
    "drop": 3.0,
    "reference": {"name": "fp32", "identity": "0", "runtime": "onnxruntime (cpu)", "machine": "orin"},
    "clips": [{"name": "a", "frames": 22}],
    "etam-edge": "9.9",
    "power": {"watts": 15},
}


def test_additions_of_a_newer_minor_version_are_kept(path: Path) -> None:
    fields = manifest_fields(path) | {
        "schema": "2.7",
        "calibration": CALIBRATION,
        "accuracy": ACCURACY,
        "colour": "red",
    }
    fields["graphs"]["track"]["flops"] = 5
    fields["checkpoint"]["url"] = "https://example.org"
    write_manifest(path, fields)
    bundle = Bundle.load(path)
    manifest = bundle.manifest
    assert manifest.schema_minor == 7
    assert manifest.extra == {"colour": "red"}
    assert manifest.graphs["track"].extra == {"flops": 5}
    assert manifest.calibration is not None
    assert manifest.calibration.clips == (ClipSummary(name="a", frames=22, objects=2, extra={"fps": 30}),)
    assert manifest.calibration.largest["neck"].value == 3.5
    assert manifest.accuracy is not None
    assert manifest.accuracy.reference.extra == {"machine": "orin"}
    assert manifest.accuracy.etam_edge == "9.9"

    bundle.store_accuracy(manifest.accuracy)
    written = manifest_fields(path)
    assert written["calibration"] == CALIBRATION
    assert written["accuracy"].items() >= ACCURACY.items()
    kept = fields.keys() - {"accuracy", "sha256"}
    assert {name: written[name] for name in kept} == {name: fields[name] for name in kept}


def test_a_manifest_of_this_version(path: Path) -> None:
    fields = manifest_fields(path)
    assert fields["schema"] == "2.1"
    assert set(fields["answer"]) == {"stream", "origin", "scores", "ious", "pointers", "logits"}
    assert fields["calibration"] == fields["accuracy"] == {}


def test_a_summary_of_another_form_is_refused(path: Path) -> None:
    for summary in ({"drop": 1.0}, "passed", {"passed": True, "clips": [3]}):
        rewrite(path, accuracy=summary)
        refused(path, "damaged or foreign")


@pytest.mark.parametrize("name", GRAPH_NAMES)
def test_one_changed_byte_is_refused(path: Path, name: str) -> None:
    file = path / "graphs" / f"{name}.onnx"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    refused(path, rf"{name}\.onnx is not the file that was exported")


def test_missing_graph_is_refused(path: Path) -> None:
    (path / "graphs" / "track.onnx").unlink()
    refused(path, r"track\.onnx is missing")


def test_cut_manifest_is_refused(path: Path) -> None:
    text = (path / MANIFEST).read_text()
    (path / MANIFEST).write_text(text[: len(text) // 2])
    refused(path, "is damaged: it is not JSON")
    (path / MANIFEST).write_bytes(b"\xff\xfe\x00")
    refused(path, "cannot be read")


def test_no_bundle_is_refused(path: Path, tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "there is no bundle at")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "is not a bundle: it has no bundle.json")
    refused(path / "graphs" / "track.onnx", "is not a bundle")
    (path / MANIFEST).write_text("[1, 2]")
    refused(path, "is not a bundle manifest")


@pytest.mark.parametrize("schema", [99, 0, True, 2.5, "3.0", "2.x", "2", [2]])
def test_another_schema_is_refused(path: Path, schema: object) -> None:
    rewrite(path, schema=schema)
    with pytest.raises(BundleError) as caught:
        Bundle.load(path)
    assert f"has schema version {schema}, and this etam-edge reads version 2" in str(caught.value)


def test_foreign_fields_are_refused(path: Path) -> None:
    rewrite(path, model={"name": "x", "image_size": 64, "vit_width": 8, "vit_heads": 2, "colour": "red"})
    refused(path, "unknown fields colour")
    rewrite(path, model={"name": "x"})
    refused(path, "damaged or foreign")
    rewrite(path, graphs={"track": 3})
    refused(path, "damaged or foreign")


def test_graph_outside_the_bundle_is_refused(path: Path) -> None:
    graphs = manifest_fields(path)["graphs"]
    graphs["track"]["file"] = "../../etc/hostname"
    rewrite(path, graphs=graphs)
    refused(path, "lies outside the bundle")


def test_graph_of_another_signature_is_refused(path: Path) -> None:
    pytest.importorskip("onnxruntime")
    from etam_edge import Tracker

    graphs = manifest_fields(path)["graphs"]
    graphs["encode"]["signature"]["inputs"][0]["shape"][1] = 256
    rewrite(path, graphs=graphs)
    with pytest.raises(BundleError, match="frame of graph 'encode' are not those of its model and sizes"):
        Tracker.load(path, provider="cpu")


def test_file_that_is_no_graph_is_refused(path: Path) -> None:
    pytest.importorskip("onnxruntime")
    from etam_edge import Tracker
    from etam_edge.bundle import sha256_of

    (path / "graphs" / "encode.onnx").write_bytes(b"not a graph")
    graphs = manifest_fields(path)["graphs"]
    graphs["encode"]["sha256"] = sha256_of(path / "graphs" / "encode.onnx")
    rewrite(path, graphs=graphs)
    with pytest.raises(BundleError, match=r"encode\.onnx is damaged \(it is not an ONNX model"):
        Tracker.load(path, provider="cpu")


# --- writing ---


def fill(draft: Path) -> None:
    (draft / MANIFEST).write_text("{}")


def test_writing_takes_its_place_at_once(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "bundle"
    with writing(target) as draft:
        fill(draft)
        assert not target.exists()
    assert (target / MANIFEST).exists()
    assert [entry.name for entry in target.parent.iterdir()] == ["bundle"]


@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt()])
def test_interrupted_writing_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    def interrupted() -> None:
        with writing(tmp_path / "bundle") as draft:
            fill(draft)
            raise error

    with pytest.raises(type(error)):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_full_disk_is_one_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No space left on device"), writing(tmp_path / "bundle"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_existing_bundle_is_kept_unless_replaced(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    with writing(target) as draft:
        (draft / MANIFEST).write_text("old")
    with pytest.raises(InputError, match="add `overwrite=True`"):
        check_target(target, overwrite=False)
    with pytest.raises(RuntimeError), writing(target, overwrite=True) as draft:
        raise RuntimeError("a failed replacement")
    assert (target / MANIFEST).read_text() == "old"
    with writing(target, overwrite=True) as draft:
        (draft / MANIFEST).write_text("new")
    assert (target / MANIFEST).read_text() == "new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["bundle"]


def test_other_peoples_files_are_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_text("x")
    with pytest.raises(InputError, match="other files in it"):
        check_target(tmp_path / "photos", overwrite=True)
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="is a file"):
        check_target(tmp_path / "file", overwrite=True)
    with pytest.raises(InputError, match="cannot be written"):
        check_target(tmp_path / "file" / "bundle", overwrite=True)
    check_target(tmp_path / "new", overwrite=False)
    (tmp_path / "empty").mkdir()
    check_target(tmp_path / "empty", overwrite=False)
