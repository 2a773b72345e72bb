"""`etam_edge.build` on a simulated GPU: for how many objects, with how much memory, and what TensorRT is told."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import SmallBundleMaker
from typer.testing import CliRunner

import etam_edge
from etam_edge.bundle import Bundle
from etam_edge.bundle.engines import Sidecar, built_for, engine_path
from etam_edge.bundle.memory import graph_memory
from etam_edge.cli.app import app
from etam_edge.errors import ExportError
from etam_edge.exporters.tensorrt.builder import BuildOptions, build_engine
from etam_edge.exporters.tensorrt.layer_types import count, layers, scratch_memory
from etam_edge.runtimes.backends.cuda.driver import Gpu
from etam_edge.spec import Pooling
from etam_edge.workflows.build import available_memory
from etam_edge_testing.refusals import refused
from etam_edge_testing.simulated import A100, ORIN, SimulatedCuda, simulated_tensorrt

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from etam_edge_testing.simulated_builder import EXTERNAL, Flag, add_builder

MEGABYTE = 1 << 20
Machine = Callable[..., tuple[Any, SimulatedCuda]]


@pytest.fixture
def bundle(small_bundle: SmallBundleMaker, tmp_path: Path) -> Bundle:
    return Bundle.load(small_bundle(Pooling.SCORE_BIAS)).copy_to(tmp_path / "bundle")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Makes a simulated GPU with a TensorRT that builds the one that is here."""

    def make(gpu: Gpu = A100, version: str = "10.3.0", **faults: Any) -> tuple[Any, SimulatedCuda]:
        cuda = SimulatedCuda(gpu)
        trt: Any = simulated_tensorrt(cuda, version)
        add_builder(trt, cuda, **faults)
        monkeypatch.setattr("etam_edge.runtimes.backends.tensorrt.tensorrt_module.import_tensorrt", lambda name: trt)
        monkeypatch.setattr("etam_edge.runtimes.backends.cuda.open.open_cuda", lambda index=0: cuda)
        return trt, cuda

    return make


def objects_of(bundle: Bundle) -> dict[str, int]:
    [platform] = built_for(bundle)
    return {
        name: Sidecar.load(engine_path(bundle, platform, name).with_suffix(".json")).max_objects
        for name in bundle.manifest.graphs
    }


@pytest.mark.parametrize(
    ("gpu", "target", "objects"),
    [
        (A100, "this-machine", 8),
        (A100, "a100", 8),
        (ORIN, "jetson-orin", 2),
        (ORIN, "jetson-orin-nano", 1),
        (ORIN, "this-machine", 2),
    ],
)
def test_engines_take_few_objects_where_memory_is_shared(
    gpu: Gpu, target: str, objects: int, bundle: Bundle, machine: Machine
) -> None:
    machine(gpu)
    result = etam_edge.build(bundle, target)
    assert result.max_objects == objects
    assert objects_of(bundle) == {"encode": objects, "prompt": objects, "remember": 1, "track": objects}


def test_what_is_asked_for_is_told_to_the_builder(bundle: Bundle, machine: Machine) -> None:
    trt, _ = machine()
    etam_edge.build(bundle, max_objects=4, opt_objects=3, workspace=300, optimization_level=1)
    for network, config in trt.built:
        assert config.builder_optimization_level == 1
        assert config.limits == {"workspace": 300 * MEGABYTE}
        assert Flag.TF32 not in config.flags
        shapes = [shape for profile in config.profiles for shape in profile.shapes.values()]
        counts = {tuple(one[0] for one in shape) for shape in shapes}
        assert (
            counts
            == {"encode": set(), "prompt": {(1, 1, 4)}, "remember": {(1, 1, 1)}, "track": {(1, 3, 4)}}[network.name]
        )


def test_cublas_and_cudnn_can_be_left_out_of_8_6(bundle: Bundle, machine: Machine) -> None:
    trt, _ = machine(version="8.6.1", missing_libraries=True)
    with pytest.raises(ExportError, match="initializing cublas failed"):
        etam_edge.build(bundle)
    etam_edge.build(bundle, external_tactics=False)
    assert not trt.built[-1][1].tactic_sources & set(EXTERNAL)


def test_lack_of_memory_is_named(bundle: Bundle, machine: Machine) -> None:
    machine(workspace_needed=500 * MEGABYTE)
    text = r"not enough memory to build encode.onnx with a workspace of 300 MB .*insufficient workspace.*lower `max_obj"
    with pytest.raises(ExportError, match=text):
        etam_edge.build(bundle, workspace=300)
    assert built_for(bundle) == []


def test_a_workspace_that_is_too_small_is_named_before_the_build(
    bundle: Bundle, machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    trt, _ = machine()
    needed = graph_memory(bundle, 64)["track"].scratch
    etam_edge.build(bundle, max_objects=64, workspace=1)
    [record] = caplog.records
    assert f"graph track needs about {-(-needed // MEGABYTE)} MB" in record.getMessage()
    caplog.clear()
    # Without a number, the workspace is at least what is needed.
    etam_edge.build(bundle, max_objects=5000, overwrite=True)
    assert trt.built[-1][1].limits["workspace"] == graph_memory(bundle, 5000)["track"].scratch > 2048 * MEGABYTE
    assert not caplog.records


def test_too_little_free_memory_is_named_before_the_build(
    bundle: Bundle, machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    _, cuda = machine()
    cuda.room = 100 * MEGABYTE
    with caplog.at_level(logging.WARNING):
        etam_edge.build(bundle)
    [record] = caplog.records
    assert "and 100 MB are free: close other programs" in record.getMessage()


def test_what_the_system_gives_up_on_demand_counts_as_free(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 8000000 kB\nMemAvailable:    5000000 kB\n")
    orin, a100 = SimulatedCuda(ORIN), SimulatedCuda(A100)
    orin.room = a100.room = MEGABYTE
    assert available_memory(orin, tmp_path) == 5_000_000 * 1024
    assert available_memory(orin, tmp_path / "none") == available_memory(a100, tmp_path) == MEGABYTE


def test_types_that_contradict_the_network_are_refused(bundle: Bundle, machine: Machine) -> None:
    """The simulation can fail: a strongly typed network takes no precision flags."""
    trt, cuda = machine()
    graph, signature = bundle.graph_path("track"), bundle.manifest.graphs["track"].signature
    with cuda.current():
        real = trt.Builder.create_builder_config

        def with_flag(self: Any) -> Any:
            config = real(self)
            config.set_flag(trt.BuilderFlag.FP16)
            return config

        trt.Builder.create_builder_config = with_flag
        with pytest.raises(ExportError, match="precision flags are set and the network is strongly typed"):
            build_engine(trt, graph, signature, BuildOptions())


def test_layers_of_8_6_are_blocks_and_the_table_says_so(bundle: Bundle, machine: Machine) -> None:
    machine(version="8.6.1")
    result = CliRunner().invoke(app, ["build", str(bundle.path), "--layers"], env={"COLUMNS": "250"})
    assert result.exit_code == 0, result.exception
    assert "TensorRT 8 compiles a graph to one block or a few, and does not tell what is inside" in result.output
    assert etam_edge.build(bundle, overwrite=True).layers_note.startswith("TensorRT 8")
    machine()
    assert etam_edge.build(bundle).layers_note == ""


def test_log_of_8_6_is_read() -> None:
    log = [
        ("VERBOSE", "Engine Layer Information:"),
        (
            "VERBOSE",
            "Layer(Myelin): {ForeignNode[/blocks.0/MatMul.../neck/Add]}, Tactic: 0x0000000000000000, "
            "x (Half[1,256,32,32]), index (Int32[1]) -> y (Float[1,256,32,32])\n"
            "Layer(CaskConvolution): /patch/Conv, Tactic: 0x1fc87d7eb370bb7a, q (Int8[1,3:4,64,64]) -> p (Half[1,192])",
        ),
    ]
    assert count(layers(log)) == {("Myelin", "fp16"): 1, ("CaskConvolution", "int8"): 1}
    assert layers(log)[0].name == "{ForeignNode[/blocks.0/MatMul.../neck/Add]}"
    assert (set(layers(log)[0].inputs), set(layers(log)[0].outputs)) == ({"Half", "Int32"}, {"Float"})


def test_scratch_memory_is_read_from_the_log() -> None:
    log = [("INFO", "Max Scratch Memory: 5 bytes"), ("INFO", "Total Activation Memory: 53003264 bytes")]
    assert scratch_memory(log) == 53003264
    assert scratch_memory([]) is None


def test_wrong_levels_are_refused(bundle: Bundle) -> None:
    result = CliRunner().invoke(app, ["build", str(bundle.path), "--optimization-level", "9"])
    refused(result, "--optimization-level 9 is none of TensorRT's; give a number from 0 to 5")
