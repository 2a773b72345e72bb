"""Segmentation of images: the reference's answers on equal weights, batches, and what is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import QUICK_VARIANT, BundleMaker, CameraBundleMaker, SmallBundleMaker

from etam_edge import Prompt, Segmenter
from etam_edge.errors import BundleError, InputError
from etam_edge.runtimes.prompt_batch import PromptBatch
from etam_edge.spec import Pooling
from etam_edge_testing.goldens import MASK_BITS_ALLOWED, TOLERANCE, frame
from etam_edge_testing.manifests import write_manifest
from etam_edge_testing.small import CAMERA, clip_frame

GOLDENS = Path(__file__).parent / "data" / "image_parity"
sys.path.append(str(GOLDENS))
from make_goldens import CROP, EVERYTHING  # noqa: E402
from prompts import prompts  # noqa: E402

ROUNDED_TOLERANCE = 0.4
"""Of logits up to 13, where the host resizes the image: the reference resizes floating-point numbers, and the graph
reads uint8. Seeded weights enlarge what is rounded."""
IOU_TOLERANCE = 1e-3


@pytest.fixture(scope="module")
def small(small_bundle: SmallBundleMaker) -> Segmenter:
    return Segmenter.load(small_bundle(Pooling.NONE))


def as_prompt(given: dict[str, Any]) -> Prompt | None:
    if "point_coords" not in given and "box" not in given:
        return None
    return Prompt(points=given.get("point_coords"), labels=given.get("point_labels"), box=given.get("box"))


def answers(segmenter: Segmenter, image: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Logits, masks and IoUs by prompt, each with a leading axis of objects where there are several."""
    segmenter.set_image(image)
    found: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
    for name, given in prompts(image.shape[:2]).items():
        if name == "boxes":
            many = segmenter.predict_many(np.array(given["box"]), multimask=given["multimask"])
            masks, ious, logits = (np.stack(parts) for parts in zip(*many, strict=True))
        else:
            earlier = found[given["refines"]] if "refines" in given else None
            hint = None if earlier is None else earlier[0][np.argmax(earlier[2])]
            masks, ious, logits = segmenter.predict(as_prompt(given), given["multimask"], mask_input=hint)
        found[name] = logits, masks, ious
    return found


def compare(segmenter: Segmenter, golden: Any, place: str, image: np.ndarray, logit_tolerance: float) -> None:
    for name, (logits, masks, ious) in answers(segmenter, image).items():
        expected = {part: golden[f"{place}/{name}/{part}"] for part in ("mask_logits_every5", "mask_bits", "ious")}
        assert np.abs(ious - expected["ious"]).max() <= IOU_TOLERANCE, name
        assert np.abs(logits[..., ::5, ::5] - expected["mask_logits_every5"]).max() <= logit_tolerance, name
        bits = int(np.unpackbits(np.packbits(masks) ^ expected["mask_bits"]).sum())
        # Each low-resolution pixel is sixteen or more of the image.
        allowed = MASK_BITS_ALLOWED * 16 if logit_tolerance == TOLERANCE["mask_logits"] else masks.size * 0.005
        assert bits <= allowed, (name, bits)


@pytest.mark.parametrize(
    "variant",
    [QUICK_VARIANT, pytest.param("efficienttam_s", marks=pytest.mark.full)],
)
def test_every_kind_of_prompt_gives_the_answer_of_the_reference(variant: str, seeded_bundle: BundleMaker) -> None:
    segmenter = Segmenter.load(seeded_bundle(variant, 11, ""))
    with np.load(GOLDENS / f"{variant}.seed11.npz") as golden:
        compare(segmenter, golden, "square", frame(0, segmenter.spec.image_size), TOLERANCE["mask_logits"])
        if "crop/click/ious" in golden:
            compare(segmenter, golden, "crop", frame(0, 256)[CROP], ROUNDED_TOLERANCE)


def test_everything_gives_the_masks_of_the_reference_in_its_order(seeded_bundle: BundleMaker) -> None:
    segmenter = Segmenter.load(seeded_bundle(QUICK_VARIANT, 11, ""))
    image = frame(0, segmenter.spec.image_size)
    steps: list[tuple[int, int]] = []
    found = segmenter.everything(image, progress=lambda *step: steps.append(step), **EVERYTHING)
    with np.load(GOLDENS / f"{QUICK_VARIANT}.seed11.npz") as golden:
        expected = {name.split("/")[1]: golden[name] for name in golden if name.startswith("everything/")}
    assert len(found) == len(expected["area"]) > 5
    for name, tolerance in (("predicted_iou", IOU_TOLERANCE), ("stability_score", 0.02)):
        assert np.abs([getattr(one, name) for one in found] - expected[name]).max() <= tolerance
    assert np.array([[one.point] for one in found]) == pytest.approx(expected["point_coords"])
    records = [one.to_record() for one in found]
    # The reference's boxes end at the last pixel, and COCO's beyond it.
    assert np.abs(np.array([r["bbox"] for r in records]) - [0, 0, 1, 1] - expected["bbox"]).max() <= 1
    assert np.array([r["crop_box"] for r in records]) == pytest.approx(expected["crop_box"])
    masks = np.stack([one.mask for one in found])
    wrong = np.unpackbits(np.packbits(masks) ^ expected["mask_bits"]).sum()
    assert wrong <= 2e-5 * masks.size
    assert [one.area for one in found] == [int(mask.sum()) for mask in masks]
    assert steps[-1] == (6 * 6 + 4 * 3 * 3,) * 2
    assert steps[0] == (16, steps[-1][1])


def test_prompts_in_one_batch_answer_as_one_by_one(small: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    small.set_image(clip_frame(3, 96, 150))
    many = [Prompt(points=[(10.0 + 9 * number, 40.0)], labels=[1]) for number in range(7)]
    together = small.predict_many(many, multimask=True)
    monkeypatch.setattr(small._batch, "largest", 3)
    for prompt, one, part in zip(many, together, small.predict_many(many, multimask=True), strict=True):
        alone = small.predict(prompt)
        for found in (one, part):
            np.testing.assert_allclose(found.mask_logits, alone.mask_logits, atol=1e-4)
            np.testing.assert_allclose(found.ious, alone.ious, atol=1e-5)
    assert alone.masks.shape == (3, 96, 150)
    assert alone.masks.dtype == np.bool_
    assert alone.ious[alone.best] == alone.ious.max()


def test_features_are_computed_once_for_an_image(small: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    graphs: list[str] = []
    run = small.backend.run
    monkeypatch.setattr(small.backend, "run", lambda graph, *tensors: (graphs.append(graph), run(graph, *tensors)))
    small.set_image(clip_frame(0))
    for x in (20.0, 60.0, 100.0):
        small.predict(Prompt(points=[(x, 64.0)], labels=[1]))
    assert graphs == ["encode", "prompt", "prompt", "prompt"]


def test_a_new_image_replaces_the_features_of_every_row(small: Segmenter) -> None:
    boxes = np.array([[20, 20, 90, 90], [5, 5, 60, 60]], dtype=np.float32)
    small.set_image(clip_frame(0))
    small.predict_many(boxes)
    small.set_image(clip_frame(9))
    after = small.predict_many(boxes)
    fresh = Segmenter(small.bundle, small.backend)
    fresh.set_image(clip_frame(9))
    for one, other in zip(after, fresh.predict_many(boxes), strict=True):
        np.testing.assert_array_equal(one.mask_logits, other.mask_logits)


@pytest.mark.parametrize("box", [(20, 20, 90, 90), np.array([[20, 20, 90, 90]]), np.array([20, 20, 90, 90])])
def test_a_box_may_come_as_a_detector_gives_it(small: Segmenter, box: Any) -> None:
    small.set_image(clip_frame(0))
    expected = small.predict_many(np.array([[20, 20, 90, 90]]))[0]
    np.testing.assert_array_equal(small.predict(Prompt(box=box), multimask=False).mask_logits, expected.mask_logits)


def test_a_mask_is_a_hint(small: Segmenter) -> None:
    small.set_image(clip_frame(0))
    mask = np.zeros((128, 128), dtype=bool)
    mask[30:90, 40:80] = True
    hint = np.where(mask[::4, ::4], np.float32(10), np.float32(-10))
    found = small.predict(Prompt(mask=mask), multimask=False)
    other = small.predict(None, multimask=False, mask_input=hint)
    np.testing.assert_allclose(found.ious, other.ious, atol=0.05)
    logits = small.predict(Prompt(mask=mask), multimask=False, return_logits=True)
    np.testing.assert_array_equal(logits.masks > 0, found.masks)
    assert np.abs(found.mask_logits).max() <= 32


def test_a_bundle_with_a_frame_size_segments_frames_of_it(camera_bundle: CameraBundleMaker) -> None:
    segmenter = Segmenter.load(camera_bundle(CAMERA))
    segmenter.set_image(clip_frame(0, *CAMERA))
    assert segmenter.predict(Prompt(box=(20, 20, 90, 90))).masks.shape == (3, *CAMERA)
    with pytest.raises(InputError, match="takes only frames of 150 x 96"):
        segmenter.set_image(clip_frame(0))
    with pytest.raises(InputError, match="`crop_n_layers=1` needs images of several sizes"):
        segmenter.everything(crop_n_layers=1)


def test_a_bundle_of_an_earlier_version_tracks_and_says_what_to_export_again(
    small_bundle: SmallBundleMaker, tmp_path: Path
) -> None:
    import shutil

    onnx = pytest.importorskip("onnx")
    from etam_edge import Tracker
    from etam_edge.bundle.hashes import sha256_of

    old = Path(shutil.copytree(small_bundle(Pooling.NONE), tmp_path / "old"))
    file, manifest = old / "graphs" / "prompt.onnx", json.loads((old / "bundle.json").read_text())
    model = onnx.load(file)
    for output in [output for output in model.graph.output if output.name.startswith("candidate_")]:
        model.graph.output.remove(output)
    onnx.save(model, file)
    entry = manifest["graphs"]["prompt"]
    entry["sha256"] = sha256_of(file)
    entry["signature"]["outputs"] = [t for t in entry["signature"]["outputs"] if not t["name"].startswith("candidate_")]
    write_manifest(old, manifest)

    session = Tracker.load(old).start_session()
    session.track(clip_frame(0), prompts={1: Prompt(box=(20, 20, 90, 90))})
    assert len(session.track(clip_frame(1))) == 1
    with pytest.raises(BundleError, match=r"writes one mask for each prompt, .* export the bundle again"):
        Segmenter.load(old)


def test_what_cannot_be_used_is_refused_by_name(small: Segmenter) -> None:
    fresh = Segmenter(small.bundle, small.backend)
    with pytest.raises(InputError, match="no image is set"):
        fresh.predict(Prompt(box=(1, 1, 5, 5)))
    fresh.set_image(clip_frame(0))
    with pytest.raises(InputError, match="image has type float64"):
        fresh.set_image(np.zeros((4, 4, 3)))
    assert fresh.image is not None
    for arguments, message in (
        ((None,), "nothing is prompted"),
        ((Prompt(points=[(500, 1)], labels=[1]),), r"point \(500, 1\) of the prompt lies outside"),
    ):
        with pytest.raises(InputError, match=message):
            fresh.predict(*arguments)
    with pytest.raises(InputError, match=r"`mask_input` of the prompt has shape \(3, 3\)"):
        fresh.predict(None, mask_input=np.zeros((3, 3)))
    with pytest.raises(InputError, match="holds NaN or infinity"):
        fresh.predict(None, mask_input=np.full((32, 32), np.nan))
    with pytest.raises(InputError, match=r"box \(9, 1, 5, 5\) of the prompt 1 has its corners swapped"):
        fresh.predict_many(np.array([[1, 1, 5, 5], [9, 1, 5, 5]]))
    with pytest.raises(InputError, match=r"boxes have shape \(2, 3\)"):
        fresh.predict_many(np.zeros((2, 3)))
    assert fresh.predict_many([]) == []


def test_batches_are_as_large_as_memory_and_the_backend_allow(
    small: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = 64 * 8 * 8 * 4
    monkeypatch.setattr("etam_edge.runtimes.prompt_batch.BUFFER_BYTES", 20 * row)
    assert 1 <= PromptBatch(small.bundle, small.backend).largest < 20
    monkeypatch.setattr(small.backend, "max_objects", 2, raising=False)
    assert PromptBatch(small.bundle, small.backend).largest <= 2
