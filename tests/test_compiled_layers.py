"""The layer list of a compiled graph, and the table of the documentation that is made from it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from etam_edge.exporters.tensorrt.layer_types import GraphLayers, layers, multiplies, summarize

TENSOR = "{{ Name: {name}, Dimensions: [{shape}], Strides: [1], StrideOrder: [0], Datatype: {type}, Format: (Linear) }}"
LINE = (
    "Name: {name}, LayerType: {kind}, Inputs: [ {read}], Constants: [{constants}], Outputs: [ {written}], TacticName: x"
)


def tensor(shape: str, kind: str) -> str:
    return TENSOR.format(name="a, b", shape=shape, type=kind)


def line(name: str, kind: str, read: str, written: str, constants: str = "") -> str:
    return LINE.format(name=name, kind=kind, read=read, constants=constants, written=written)


LOG = [
    ("VERBOSE", "Engine Layer Information:\n" + line("shapes", "shape_call", "", "")),
    ("VERBOSE", line("/a/MatMul", "gemm", tensor("2,8", "Int8"), tensor("2,4", "Half"), f" {tensor('8,4', 'Int8')} ")),
    ("VERBOSE", line("/b/MatMul", "gemm", tensor("2,8", "Int8"), tensor("2,4", "Float"))),
    ("VERBOSE", line("_gemm_mha_v2_myl0_7", "kgen", ", ".join([tensor("3,8,4", "Half")] * 3), tensor("3,8,4", "Half"))),
    ("VERBOSE", line("__myl_Add", "runtime_fusion", tensor("8", "Half"), tensor("8", "Half"))),
    ("VERBOSE", "Name: of something else, which is no layer"),
]


def test_layers_are_counted() -> None:
    found = layers(LOG)
    assert [layer.kind for layer in found] == ["shape_call", "gemm", "gemm", "kgen", "runtime_fusion"]
    assert [layer.name for layer in found if layer.is_fused_attention] == ["_gemm_mha_v2_myl0_7"]
    assert [multiplies(layer) for layer in found] == [False, True, True, True, True]
    moved = (16 + 32 + 16) + (16 + 32) + 4 * 192 + 2 * 16
    assert summarize(found) == GraphLayers(4, 1, {"Half": 1, "Float": 1}, moved)


def test_bytes_of_a_variable_number_of_objects_are_not_known() -> None:
    found = layers([("VERBOSE", line("/a/MatMul", "gemm", tensor("-1,8", "Half"), tensor("-1,4", "Half")))])
    assert summarize(found).bytes_moved is None


@pytest.mark.full
@pytest.mark.parametrize("model", ["efficienttam_ti_512x512", "efficienttam_ti_2"])
def test_the_documentation_shows_what_the_compiler_makes(
    model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every row that the command of docs/tensorrt.md prints for the compiler that the page names stands there."""
    pytest.importorskip("torch")
    trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
    from benchmarks import compiled_layers

    text = (Path(__file__).parents[1] / "docs" / "tensorrt.md").read_text(encoding="utf-8")
    if f"TensorRT for RTX {'.'.join(trt.__version__.split('.')[:3])}" not in text:
        pytest.skip(f"the documentation shows another compiler than {trt.__version__}")
    monkeypatch.setattr(sys, "argv", ["compiled_layers", model])
    compiled_layers.main()
    rows = [row for row in capsys.readouterr().out.splitlines() if row.startswith(f"| `{model}`")]
    assert len(rows) == 6
    assert [row for row in rows if row not in text] == []
