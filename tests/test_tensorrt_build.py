"""Engines compiled by NVIDIA's own parser and compiler, without a GPU: TensorRT for RTX, ahead of time.

What a layer computes in is read from the compiler's log, so that int8 that is not int8, or a float region that nobody
asked for, is seen. Scales do not matter here: int8 graphs are made with made-up ranges.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import BundleMaker, CameraBundleMaker, SmallBundleMaker
from typer.testing import CliRunner, Result

from etam_edge.bundle import GRAPH_NAMES, Bundle
from etam_edge.bundle.engines import (
    FOLDER,
    TENSORRT_RTX,
    EnginePlatform,
    Sidecar,
    built_for,
    check_engines,
    engine_path,
)
from etam_edge.bundle.memory import graph_memory
from etam_edge.cli.app import app
from etam_edge.errors import BundleError, ExportError, InputError
from etam_edge.recipe import FP16, FP32, INT8, Recipe
from etam_edge.spec import Pooling
from etam_edge_testing.made_up_ranges import made_up_ranges
from etam_edge_testing.refusals import refused
from etam_edge_testing.small import CAMERA

onnx = pytest.importorskip("onnx")
pytest.importorskip("torch")
trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")

from etam_edge.calibration.qdq import QdqQuantizer  # noqa: E402
from etam_edge.exporters.precision import derive_bundle, quantized_nodes  # noqa: E402
from etam_edge.exporters.regions import RESIZE, node_regions  # noqa: E402
from etam_edge.exporters.tensorrt import builder as tensorrt_builder  # noqa: E402
from etam_edge.exporters.tensorrt.builder import BuildOptions, build_engine  # noqa: E402
from etam_edge.exporters.tensorrt.layer_types import Layer, layers, multiplies, scratch_memory  # noqa: E402

A100, SM86 = (8, 0), (8, 6)


def in_precision(source: Bundle, precision: str, output: Path) -> Bundle:
    if precision == FP32:
        return source
    quantize = QdqQuantizer(made_up_ranges())
    return derive_bundle(source, output, Recipe.default(precision), precision, {}, quantize)


def compiled(bundle: Bundle, graph: str, capability: tuple[int, int] = A100) -> list[Layer]:
    # One at a time: of several, the log shows the layers of one.
    options = BuildOptions(max_objects=4, compute_capabilities=(capability,), verbose=True)
    built = build_engine(trt, bundle.graph_path(graph), bundle.manifest.graphs[graph].signature, options)
    assert len(built.plan) > 10_000
    assert not [text for severity, text in built.log if severity in ("WARNING", "ERROR", "INTERNAL_ERROR")]
    return layers(built.log)


def check_types(source: Bundle, bundle: Bundle, graph: str, found: list[Layer]) -> None:
    """The compiler's layers compute in what the recipe says."""
    recipe, spec = bundle.manifest.recipe, bundle.manifest.model
    regions = node_regions(graph, onnx.load(source.graph_path(graph)), spec)
    # Camera frames are resized in fp32, whatever their region is.
    regions = {node: region for node, region in regions.items() if not node.startswith(RESIZE)}
    computing = [layer for layer in found if multiplies(layer)]
    assert computing
    for layer in computing:
        named = {region for node, region in regions.items() if node in layer.name}
        if "Int8" in layer.inputs:
            assert named & set(recipe.int8_regions), layer
        elif "Half" not in layer.inputs:
            # A float32 layer is one that the recipe names, or one without a name of ours, fused of such.
            assert all(recipe.float_type(region) == FP32 for region in named), layer
    text = " ".join(layer.name for layer in computing if "Int8" in layer.inputs)
    missing = [node for node in quantized_nodes(onnx.load(bundle.graph_path(graph))) if node not in text]
    assert not missing, f"not compiled to int8: {missing}"


@pytest.mark.parametrize(
    "precision", [pytest.param(FP32, marks=pytest.mark.full), pytest.param(FP16, marks=pytest.mark.full), INT8]
)
def test_a_small_model_compiles_in_every_precision(
    precision: str, small_bundle: SmallBundleMaker, tmp_path: Path
) -> None:
    source = Bundle.load(small_bundle(Pooling.SCORE_BIAS))
    bundle = in_precision(source, precision, tmp_path / "bundle")
    for graph in GRAPH_NAMES:
        for capability in (A100, SM86):
            check_types(source, bundle, graph, compiled(bundle, graph, capability))


@pytest.mark.full
@pytest.mark.parametrize("precision", [FP32, FP16, INT8])
def test_camera_frames_compile_in_every_precision(
    precision: str, camera_bundle: CameraBundleMaker, tmp_path: Path
) -> None:
    """uint8 goes in and comes out, and the filter that resizes frames is float32 whatever is around it."""
    source = Bundle.load(camera_bundle(CAMERA))
    bundle = in_precision(source, precision, tmp_path / "bundle")
    for graph in GRAPH_NAMES:
        found = compiled(bundle, graph)
        check_types(source, bundle, graph, found)
        filters = [layer for layer in found if multiplies(layer) and RESIZE in layer.name]
        assert len(filters) == (2 if graph == "encode" else 0)
        assert all(layer.inputs == {"Float"} for layer in filters), filters


@pytest.mark.full
@pytest.mark.parametrize("precision", [FP32, FP16, INT8])
@pytest.mark.parametrize("variant", ["efficienttam_ti_512x512", "efficienttam_ti_2"])
def test_official_models_compile_in_every_precision(
    variant: str, precision: str, seeded_bundle: BundleMaker, tmp_path: Path
) -> None:
    source = Bundle.load(seeded_bundle(variant, 11))
    bundle = in_precision(source, precision, tmp_path / "bundle")
    for graph in GRAPH_NAMES:
        for capability in (A100, SM86):
            check_types(source, bundle, graph, compiled(bundle, graph, capability))


@pytest.mark.full
def test_estimate_of_memory_is_close_to_the_compilers(seeded_bundle: BundleMaker, tmp_path: Path) -> None:
    """Scratch memory of `track`, whose cross-attention is not fused; a little too much is better than too little."""
    source = Bundle.load(seeded_bundle("efficienttam_ti_512x512", 11))
    bundle = in_precision(source, FP16, tmp_path / "bundle")
    for objects in (1, 4):
        options = BuildOptions(max_objects=objects, compute_capabilities=(A100,), verbose=True)
        signature = bundle.manifest.graphs["track"].signature
        found = scratch_memory(build_engine(trt, bundle.graph_path("track"), signature, options).log)
        assert found is not None
        assert 0.9 < graph_memory(bundle, objects)["track"].scratch / found < 1.5


def test_vanished_int8_would_be_seen(small_bundle: SmallBundleMaker, tmp_path: Path) -> None:
    """The check above can fail: a bundle that says int8 and holds fp16 graphs does not pass it."""
    source = Bundle.load(small_bundle(Pooling.SCORE_BIAS))
    real = in_precision(source, INT8, tmp_path / "int8")
    half = in_precision(source, FP16, tmp_path / "half")
    with pytest.raises(AssertionError, match="not compiled to int8"):
        check_types(source, real, "encode", compiled(half, "encode"))
    with pytest.raises(AssertionError):
        check_types(source, half, "encode", compiled(source, "encode"))


# --- the command ---


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)], env={"COLUMNS": "200"})


@pytest.fixture
def bundle(small_bundle: SmallBundleMaker, tmp_path: Path) -> Bundle:
    return Bundle.load(small_bundle(Pooling.SCORE_BIAS)).copy_to(tmp_path / "bundle")


RTX = ("--runtime", "tensorrt-rtx", "--target", "a100")


def test_build_writes_engines_with_sidecars(bundle: Bundle) -> None:
    result = run("build", bundle.path, *RTX, "--max-objects", 3, "--layers")
    assert result.exit_code == 0, result.exception
    assert "4 engines" in result.output
    assert "gemm" in result.output
    assert "compiled for that GPU, and not loaded" in result.output
    platform = built_for(bundle)[0]
    assert platform == EnginePlatform(TENSORRT_RTX, trt.__version__, "any", A100)
    sidecars = check_engines(bundle, platform)
    assert set(sidecars) == set(GRAPH_NAMES)
    assert sidecars["track"].max_objects == 3
    assert sidecars["track"].graph_sha256 == bundle.manifest.graphs["track"].sha256
    # The bundle itself is what it was.
    assert Bundle.load(bundle.path).identity == bundle.identity
    assert "(compute capability 8.0)" in run("inspect", bundle.path).output
    refused(run("build", bundle.path, *RTX), "already holds engines of these graphs; add --overwrite")
    assert run("build", bundle.path, *RTX, "--overwrite").exit_code == 0


def test_stale_and_damaged_engines_are_named_with_the_command(bundle: Bundle) -> None:
    platform = EnginePlatform(TENSORRT_RTX, trt.__version__, "any", A100)
    with pytest.raises(BundleError, match=r"has no engines for tensorrt-rtx.*build them with: etam-edge build"):
        check_engines(bundle, platform)
    assert run("build", bundle.path, *RTX).exit_code == 0
    elsewhere = EnginePlatform(TENSORRT_RTX, trt.__version__, "any", SM86)
    with pytest.raises(BundleError, match=r"it has engines for tensorrt-rtx .* \(compute capability 8.0\)"):
        check_engines(bundle, elsewhere)
    engine = engine_path(bundle, platform, "encode")
    whole = engine.read_bytes()
    engine.write_bytes(whole[:-1] + b"x")
    with pytest.raises(BundleError, match=r"is damaged: it does not match its hash.*--overwrite"):
        check_engines(bundle, platform)
    engine.write_bytes(whole)
    sidecar = engine.with_suffix(".json")
    said = Sidecar.load(sidecar)
    sidecar.write_text(said.to_json().replace(said.graph_sha256, "0" * 64))
    with pytest.raises(BundleError, match="was built from another encode graph"):
        check_engines(bundle, platform)
    assert "unusable: " in run("inspect", bundle.path).output
    # What is stale is built again without being asked to overwrite.
    assert run("build", bundle.path, *RTX).exit_code == 0
    check_engines(bundle, platform)


def test_wrong_calls_are_refused(bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    refused(run("build", bundle.path, "--target", "a200"), "no target is named 'a200'; targets: a100, jetson-orin")
    refused(run("build", tmp_path / "none"), "there is no bundle at")
    refused(run("build", bundle.path, *RTX, "--max-objects", 0), "of at least 1, and")
    refused(run("build", bundle.path, *RTX, "--workspace", 0), "is too small")
    orin = ("--runtime", "tensorrt-rtx", "--target", "jetson-orin")
    refused(run("build", bundle.path, *orin), "does not compile for compute capability 8.7 (it does for 7.5, 8.0, 8.6")
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    refused(run("build", bundle.path), "the Python package tensorrt is not installed")
    refused(run("build", bundle.path), "on a Jetson it comes with JetPack")
    refused(run("build", bundle.path, "--target", "jetson-orin"), "there whole and run: etam-edge build", "jetson-orin")
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    refused(run("build", bundle.path, *RTX), 'install it with: pip install "etam-edge[rtx]"')
    assert not (bundle.path / FOLDER).exists()


def test_a_graph_that_the_parser_refuses_names_the_node(bundle: Bundle) -> None:
    path = bundle.graph_path("encode")
    model = onnx.load(path)
    model.graph.node[0].op_type = "NoSuchOperator"
    onnx.save(model, path)
    with pytest.raises(ExportError, match=rf"cannot parse encode.onnx: {model.graph.node[0].name}"):
        build_engine(trt, path, bundle.manifest.graphs["encode"].signature, BuildOptions(compute_capabilities=(A100,)))


def test_a_build_that_fails_or_is_interrupted_leaves_nothing(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    real = tensorrt_builder.build_engine

    def breaks(module: Any, graph: Path, *rest: Any, **named: Any) -> Any:
        calls.append(graph.stem)
        if graph.stem == "remember":
            raise KeyboardInterrupt
        return real(module, graph, *rest, **named)

    monkeypatch.setattr("etam_edge.exporters.tensorrt.engine_set.build_engine", breaks)
    result = run("build", bundle.path, *RTX)
    assert result.exit_code != 0
    assert calls == ["encode", "prompt", "remember"]
    assert built_for(bundle) == []
    assert list((bundle.path / FOLDER).glob("*")) == []


def test_a_cancelled_build_ends(bundle: Bundle) -> None:
    signature = bundle.manifest.graphs["track"].signature
    phases: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        build_engine(
            trt,
            bundle.graph_path("track"),
            signature,
            BuildOptions(compute_capabilities=(A100,)),
            progress=lambda phase, done, steps: phases.append(phase),
            cancelled=lambda: True,
        )
    assert phases


def test_options_that_contradict_are_refused() -> None:
    with pytest.raises(InputError, match="cannot be tuned for 5"):
        BuildOptions(max_objects=4, opt_objects=5)
