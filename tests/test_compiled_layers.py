"""The layer list of a compiled graph, read from the log of its build."""

from __future__ import annotations

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
