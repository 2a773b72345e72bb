"""Bundles that take camera frames: resized in the graph as on the host, masks at frame size, in either runtime."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import CameraBundleMaker, SmallBundleMaker
from PIL import Image

from etam_edge import FrameResult, Prompt, Session, Tracker
from etam_edge.bundle import MANIFEST, Bundle, Manifest
from etam_edge.bundle.engines import TENSORRT
from etam_edge.errors import BundleError, InputError
from etam_edge.runtimes.backends.cuda.driver import Gpu
from etam_edge.runtimes.backends.tensorrt.backend import TensorRTBackend
from etam_edge.runtimes.backends.tensorrt.tensorrt_module import platform_here
from etam_edge.runtimes.resample import resize_bilinear
from etam_edge.spec import GraphSizes, Pooling
from etam_edge_testing.manifests import write_manifest
from etam_edge_testing.simulated import A100, ORIN, SimulatedCuda, simulated_tensorrt, write_simulated_engines
from etam_edge_testing.small import CAMERA, clip_frame

pytest.importorskip("onnxruntime")

CLICK = Prompt(points=[(75, 66)], labels=[1])
BOX = Prompt(box=(20, 30, 90, 80))
CORRECTION = Prompt(points=[(120, 15)], labels=[0])


def frame(index: int) -> np.ndarray:
    return clip_frame(index, *CAMERA)


def user_mask() -> np.ndarray:
    mask = np.zeros(CAMERA, dtype=bool)
    mask[20:70, 30:110] = True
    return mask


@pytest.fixture
def camera(camera_bundle: CameraBundleMaker) -> Tracker:
    return Tracker.load(camera_bundle(CAMERA), "onnxruntime", provider="cpu", threads=1)


@pytest.fixture
def plain(small_bundle: SmallBundleMaker) -> Tracker:
    """The same weights, resizing on the host."""
    return Tracker.load(small_bundle(Pooling.SCORE_BIAS), "onnxruntime", provider="cpu", threads=1)


def same(first: FrameResult, second: FrameResult) -> None:
    assert first.object_ids == second.object_ids
    for name in ("masks", "mask_logits", "object_scores", "ious", "mask_choices"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


def close(first: FrameResult, second: FrameResult) -> None:
    """Alike but for rounding: a frame's pixel may be another by a level, a mask's where its logit is zero."""
    assert (first.frame_index, first.object_ids) == (second.frame_index, second.object_ids)
    np.testing.assert_allclose(first.mask_logits, second.mask_logits, atol=0.03)
    np.testing.assert_allclose(first.object_scores, second.object_scores, atol=0.02)
    assert (first.masks.dtype, first.masks.shape) == (second.masks.dtype, second.masks.shape)
    near_zero = np.abs(resize_bilinear(second.mask_logits, *CAMERA)) < 0.03
    assert (near_zero | (first.masks == second.masks)).all()


# --- the graphs themselves ---


@pytest.mark.parametrize(
    ("size", "side"),
    [((480, 720), 256), ((1080, 1920), 512), (CAMERA, 128), ((64, 50), 128), ((128, 300), 128), ((90, 128), 128)],
)
def test_frames_are_resized_as_pillow_does(size: tuple[int, int], side: int) -> None:
    torch = pytest.importorskip("torch")
    from etam_edge.exporters.graphs.camera import FrameResize

    generator = np.random.default_rng(2)
    # Noise reaches what overshoots; a still texture is what a camera sees.
    for pixels in (generator.integers(0, 256, size=(*size, 3), dtype=np.uint8), clip_frame(3, *size)):
        actual = FrameResize(size, side)(torch.from_numpy(pixels)[None])[0].numpy()
        expected = np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC))
        difference = np.abs(actual - expected)
        assert difference.max() <= 1
        assert difference.mean() < 1e-3


def test_a_frame_of_the_models_size_is_left_alone() -> None:
    torch = pytest.importorskip("torch")
    from etam_edge.exporters.graphs.camera import FrameResize

    pixels = clip_frame(0)
    np.testing.assert_array_equal(FrameResize((128, 128), 128)(torch.from_numpy(pixels)[None])[0].numpy(), pixels)


@pytest.mark.parametrize("size", [(480, 720), (1080, 1920), (721, 1283), (20, 30)])
def test_masks_are_enlarged_as_on_the_host(size: tuple[int, int]) -> None:
    torch = pytest.importorskip("torch")
    from etam_edge.exporters.graphs.camera import MaskEnlarge

    logits = np.random.default_rng(4).normal(size=(3, 64, 64)).astype(np.float32)
    logits[2] = -1024
    masks = MaskEnlarge(size, 64)(torch.from_numpy(logits)).numpy()
    assert (masks.dtype, masks.shape) == (np.uint8, (3, *size))
    large = resize_bilinear(logits, *size)
    assert ((np.abs(large) < 1e-5) | (masks == (large > 0))).all()
    assert not masks[2].any()


def test_factors_of_every_size_give_it_back() -> None:
    pytest.importorskip("torch")
    from etam_edge.exporters.graphs.camera import _scale

    for source in (32, 64, 128, 256):
        for target in range(16, 4400, 7):
            assert int(np.floor(np.float32(source) * np.float32(_scale(source, target)))) == target


def test_signatures_say_the_size_and_nothing_else_changes(camera: Tracker, plain: Tracker) -> None:
    height, width = CAMERA
    graphs, others = camera.bundle.manifest.graphs, plain.bundle.manifest.graphs
    assert graphs["encode"].signature.inputs[0].shape == (1, height, width, 3)
    *rest, masks = graphs["track"].signature.outputs
    assert (masks.name, masks.dtype, masks.shape) == ("masks", "uint8", ("objects", height, width))
    assert tuple(rest) == others["track"].signature.outputs
    for name in ("prompt", "remember"):
        assert graphs[name].signature == others[name].signature
    assert camera.bundle.manifest.verification["masks"] < 1e-3
    assert "masks" not in plain.bundle.manifest.verification


@pytest.mark.parametrize("name", ["encode", "track"])
def test_camera_graphs_are_static(name: str, camera: Tracker) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("torch")
    from etam_edge.exporters.passes.check_static import static_problems
    from etam_edge.exporters.regions import RESIZE, node_regions

    model = onnx.load(camera.bundle.graph_path(name))
    assert static_problems(model) == []
    regions = node_regions(name, model, camera.spec)
    prefix, region = (RESIZE, "patch_embedding") if name == "encode" else ("/enlarge/", "mask_decoder")
    found = {regions[node] for node in regions if node.startswith(prefix)}
    assert found == {region}
    # uint8 is met in casts alone.
    kinds = {value.name for value in (*model.graph.input, *model.graph.output) if value.type.tensor_type.elem_type == 2}
    touching = [node.op_type for node in model.graph.node if kinds & {*node.input, *node.output}]
    assert touching == ["Cast"]


def too_large(module: Any, logits: Any) -> Any:
    """Masks of an object that is larger than its logits say."""
    import torch
    import torch.nn.functional as F

    large = F.interpolate(logits[:, None] + 0.1, scale_factor=module.scale, mode="bilinear").squeeze(1)
    return torch.where(large > 0, 1.0, 0.0).to(torch.uint8)


@pytest.mark.full
def test_a_graph_that_resizes_otherwise_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The verification can fail, on either end of a frame."""
    pytest.importorskip("torch")
    from etam_edge.errors import ExportError
    from etam_edge.exporters.graphs import camera
    from etam_edge_testing.small import SIZES, export_small

    sizes = dataclasses.replace(SIZES, frame_size=CAMERA)
    with monkeypatch.context() as patch:
        patch.setattr(camera, "CUBIC", -0.75)
        with pytest.raises(ExportError, match="image_features differs"):
            export_small(Pooling.NONE, tmp_path / "bundle", sizes)
    with monkeypatch.context() as patch:
        patch.setattr(camera.MaskEnlarge, "forward", too_large)
        with pytest.raises(ExportError, match="masks differs"):
            export_small(Pooling.NONE, tmp_path / "bundle", sizes)
    assert list(tmp_path.iterdir()) == []


# --- sessions ---


def play(session: Session, index: int) -> list[FrameResult]:
    """One frame of a stream in which objects come by every kind of prompt, are corrected, and go."""
    prompts = {0: {1: CLICK}, 2: {2: BOX}, 5: {3: Prompt(mask=user_mask()), 1: BOX}}.get(index)
    results = [session.track(frame(index), prompts=prompts)]
    if index in (1, 5, 8):
        results.append(session.refine(3 if index == 8 else 1, CORRECTION))
    if index == 7:
        session.remove(2)
    return results


def test_answers_are_those_of_the_host(camera: Tracker, plain: Tracker) -> None:
    sessions = camera.start_session(max_objects=3), plain.start_session(max_objects=3)
    for index in range(12):
        for first, second in zip(*(play(session, index) for session in sessions), strict=True):
            close(first, second)


def test_a_correction_leaves_the_other_masks_as_they_were(camera: Tracker) -> None:
    session = camera.start_session()
    session.track(frame(0), prompts={1: CLICK, 2: BOX})
    before = session.track(frame(1))
    after = session.refine(1, CORRECTION)
    np.testing.assert_array_equal(after.masks[1], before.masks[1])


def test_prompted_masks_are_the_users_own(camera: Tracker, plain: Tracker) -> None:
    results = [one.start_session().track(frame(0), prompts={1: Prompt(mask=user_mask())}) for one in (camera, plain)]
    np.testing.assert_array_equal(results[0].masks, results[1].masks)


def test_resumed_session_answers_bit_for_bit(camera: Tracker, tmp_path: Path) -> None:
    session = camera.start_session(max_objects=3)
    for index in range(7):
        play(session, index)
    session.save(tmp_path / "state.npz")
    resumed = camera.resume_session(tmp_path / "state.npz")
    # A correction right away shows the other objects' masks as the graph gave them.
    same(resumed.refine(1, CORRECTION), session.refine(1, CORRECTION))
    for index in range(7, 11):
        for first, second in zip(play(resumed, index), play(session, index), strict=True):
            same(first, second)


def test_frames_in_any_memory_order(camera: Tracker) -> None:
    sessions = camera.start_session(), camera.start_session()
    for index in range(2):
        prompts = {1: CLICK} if index == 0 else None
        turned = np.ascontiguousarray(frame(index)[..., ::-1])[..., ::-1]
        same(sessions[0].track(frame(index), prompts), sessions[1].track(turned, prompts))


def test_frames_of_another_size_are_refused(camera: Tracker) -> None:
    session = camera.start_session()
    sentence = (
        rf"frame 0 is 128 x 90 pixels, but {camera.bundle.path} takes only frames of 150 x 96; give such frames, or "
        "export again with: etam-edge export --frame-size 128x90"
    )
    with pytest.raises(InputError, match=sentence):
        session.track(clip_frame(0, 90, 128), prompts={1: CLICK})
    assert session.track(frame(0), prompts={1: CLICK}).frame_index == 0
    session.reset()
    with pytest.raises(InputError, match="takes only frames of 150 x 96"):
        session.track(clip_frame(0, 90, 128))


def test_fast_has_no_meaning_here(camera: Tracker) -> None:
    with pytest.raises(InputError, match=r'resize="fast" is for frames that the host resizes.*leave it out'):
        camera.start_session(resize="fast")


@pytest.mark.parametrize("gpu", [A100, ORIN], ids=["own memory", "shared memory"])
def test_engines_answer_the_same(gpu: Gpu, camera: Tracker, tmp_path: Path) -> None:
    bundle = camera.bundle.copy_to(tmp_path / "robot")
    cuda = SimulatedCuda(gpu)
    trt = simulated_tensorrt(cuda)
    write_simulated_engines(bundle, platform_here(TENSORRT, trt, cuda.gpu), 3)
    engines = Tracker(bundle, TensorRTBackend(bundle, cuda, trt))
    sessions = camera.start_session(max_objects=3), engines.start_session(max_objects=3)
    for index in range(9):
        before = dict(cuda.calls)
        for first, second in zip(*(play(session, index) for session in sessions), strict=True):
            same(first, second)
        if index == 3:
            ways = ("to_device", "to_host")
            moved = {way: cuda.calls[f"{way} bytes"] - before.get(f"{way} bytes", 0) for way in ways}
            pixels = CAMERA[0] * CAMERA[1]
            # The values of memory entries are looked at for NaN.
            entry = 4 * camera.spec.memory_tokens * camera.spec.memory_width
            wanted = (0, 2 * entry) if gpu.integrated else (3 * pixels, 2 * (pixels + 4 * 32 * 32 + entry))
            assert wanted[0] <= moved["to_device"] < wanted[0] + 2048
            assert wanted[1] <= moved["to_host"] < wanted[1] + 2048


# --- the manifest ---


def test_the_size_survives_a_round_trip(camera: Tracker, plain: Tracker, tmp_path: Path) -> None:
    manifest = camera.bundle.manifest
    assert manifest.sizes.frame_size == CAMERA
    assert Manifest.from_json(manifest.to_json(), tmp_path) == manifest
    # A bundle without one says nothing of it: earlier versions read it, and its own bundles are read.
    assert "frame_size" not in json.loads(plain.bundle.manifest.to_json())["sizes"]
    assert plain.bundle.manifest.sizes.frame_size is None


def test_a_damaged_size_is_refused(camera: Tracker, tmp_path: Path) -> None:
    bundle = camera.bundle.copy_to(tmp_path / "bundle")
    fields = json.loads((bundle.path / MANIFEST).read_text())
    for size in ("big", [96], 96, [96, 2]):
        fields["sizes"]["frame_size"] = size
        write_manifest(bundle.path, fields)
        with pytest.raises(BundleError, match="damaged or foreign"):
            Bundle.load(bundle.path)


@pytest.mark.parametrize("size", [(10, 100), (100, 9000), (100,), (1, 2, 3), ("a", "b"), 7, (100.5, 100)])
def test_sizes_of_no_camera_are_refused(size: Any) -> None:
    with pytest.raises(InputError, match="frame"):
        GraphSizes(frame_size=size)


# --- precisions and calibration ---


def test_frames_are_resized_in_fp32_whatever_the_recipe(camera: Tracker, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("torch")
    from etam_edge.calibration.qdq import QdqQuantizer
    from etam_edge.exporters.precision import derive_bundle, quantized_nodes
    from etam_edge.exporters.regions import RESIZE
    from etam_edge.exporters.rounded_bundle import rounded_bundle
    from etam_edge.recipe import INT8, Recipe
    from etam_edge_testing.made_up_ranges import made_up_ranges

    recipe = Recipe.default(INT8).with_regions({"patch_embedding": INT8})
    made = derive_bundle(camera.bundle, tmp_path / "int8", recipe, INT8, {}, QdqQuantizer(made_up_ranges()))
    model = onnx.load(made.graph_path("encode"))
    done = quantized_nodes(model)
    assert any(name.startswith("/patch/") for name in done)
    assert not any(name.startswith(RESIZE) for name in done)
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    types = {value.name: value.type.tensor_type.elem_type for value in inferred.graph.value_info}
    resized = [name for node in model.graph.node if node.name.startswith(RESIZE) for name in node.output]
    assert {types[name] for name in resized} == {onnx.TensorProto.FLOAT}

    half = derive_bundle(camera.bundle, tmp_path / "fp16", Recipe.default("fp16"), "fp16", {})
    rounded = Tracker.load(rounded_bundle(half, tmp_path / "rounded").path, "onnxruntime", provider="cpu", threads=1)
    sessions = [tracker.start_session() for tracker in (camera, rounded)]
    for index in range(4):
        results = [session.track(frame(index), {1: CLICK, 2: BOX} if index == 0 else None) for session in sessions]
        assert (results[0].masks != results[1].masks).mean() < 0.01


@pytest.mark.full
def test_calibration_records_camera_frames(camera: Tracker, plain: Tracker, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from etam_edge.calibration.ranges import measure_ranges
    from etam_edge.calibration.recorder import record
    from etam_edge.workflows.conversion import packaged_clips

    # The small model's memory is full after 17 frames.
    [clip] = [clip for clip in packaged_clips(tmp_path / "clips", CAMERA) if clip.name == "crossing"]
    assert next(iter(clip.frames)).pixels.shape == (*CAMERA, 3)
    recording = record(camera, [clip], tmp_path / "recording", samples=3)
    assert all(inputs["frame"].shape == (1, *CAMERA, 3) for inputs in recording.inputs("encode"))
    ranges = measure_ranges(camera.bundle, recording)
    assert max(high for _, high in ranges["encode"].values()) >= 200
    with pytest.raises(InputError, match="was recorded with graphs of other sizes than"):
        recording.check(plain.bundle)
    # In its own size it is none of the camera's.
    clips = [clip for clip in packaged_clips(tmp_path / "own") if clip.name == "crossing"]
    with pytest.raises(InputError, match=r"clip crossing is 320 x 240 pixels, but .* takes only frames of 150 x 96"):
        record(camera, clips, tmp_path / "other")


def test_prompts_are_scaled_with_their_frames() -> None:
    from etam_edge.media.scaled import scaled_prompt

    prompt = scaled_prompt(Prompt(points=[(10, 20)], labels=[1], box=(0, 10, 50, 60)), (100, 50), (200, 200))
    np.testing.assert_allclose(prompt.points, [(40, 40)])
    np.testing.assert_allclose(prompt.box, (0, 20, 200, 120))
    mask = np.zeros((10, 10), dtype=bool)
    mask[:5] = True
    larger = scaled_prompt(Prompt(mask=mask), (10, 10), (40, 20)).mask
    assert larger is not None
    assert (larger.dtype, larger.shape, larger[:20].all(), larger[20:].any()) == (np.bool_, (40, 20), True, False)
