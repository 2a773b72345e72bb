"""Each pass on a graph made for it: what it changes, that it computes the same, and that it leaves its input alone."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnx_ir")
pytest.importorskip("onnxslim")
sys.path.insert(0, str(Path(__file__).parent))

from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from tiny_graphs import model_of, operators, run  # noqa: E402

from etam_edge.bundle import OBJECTS, GraphSignature, TensorSpec  # noqa: E402
from etam_edge.errors import ExportError  # noqa: E402
from etam_edge.exporters.passes.base import Pass, PassResult, run_passes  # noqa: E402
from etam_edge.exporters.passes.check_static import CheckStatic  # noqa: E402
from etam_edge.exporters.passes.convert_to_float16 import ConvertToFloat16  # noqa: E402
from etam_edge.exporters.passes.declare_signature import DeclareSignature  # noqa: E402
from etam_edge.exporters.passes.insert_qdq import InsertQdq  # noqa: E402
from etam_edge.exporters.passes.isolate_inputs import SUFFIX, IsolateInputs  # noqa: E402
from etam_edge.exporters.passes.onnx_ir_passes import (  # noqa: E402
    deduplicate_initializers,
    remove_identities,
    remove_unused,
    sort_nodes,
)
from etam_edge.exporters.passes.round_to_float16 import round_to_float16  # noqa: E402
from etam_edge.exporters.passes.simplify import simplify  # noqa: E402
from etam_edge.exporters.passes.split_gemm import SplitGemm  # noqa: E402

RNG = np.random.default_rng(0)
X = RNG.standard_normal((3, 4)).astype(np.float32)
WEIGHT = RNG.standard_normal((4, 5)).astype(np.float32)
BIAS = RNG.standard_normal(5).astype(np.float32)
ENDS = GraphSignature((TensorSpec("x", "float32", (3, 4)),), (TensorSpec("y", "float32", (3, 5)),))


def applied(one: Pass, model: onnx.ModelProto) -> PassResult:
    """The result of a pass, which must not have modified its input, and must be repeatable."""
    before = model.SerializeToString(deterministic=True)
    result = one(model)
    assert model.SerializeToString(deterministic=True) == before
    assert result.changed == (result.model.SerializeToString(deterministic=True) != before)
    return result


def linear(transposed: bool = False, bias: bool = True) -> onnx.ModelProto:
    inputs = ["x", "w", *(["b"] if bias else [])]
    weight = np.ascontiguousarray(WEIGHT.T) if transposed else WEIGHT
    node = helper.make_node("Gemm", inputs, ["y"], name="/linear", transB=int(transposed))
    return model_of([node], [3, 4], {"w": weight, **({"b": BIAS} if bias else {})})


# --- the frame ---


def test_passes_run_in_order_and_tell_whether_any_changed_the_model() -> None:
    model = linear()
    seen: list[str] = []

    def checking(name: str) -> Pass:
        def check(model: onnx.ModelProto) -> PassResult:
            seen.append(f"{name}: {operators(model)}")
            return PassResult(model, False)

        return check

    result = run_passes(model, [checking("before"), SplitGemm(["/linear"]), checking("after")])
    assert seen == ["before: ['Gemm']", "after: ['MatMul', 'Add']"]
    assert result.changed
    unchanged = run_passes(model, [checking("alone")])
    assert not unchanged.changed
    assert unchanged.model is model


# --- SplitGemm ---


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("transposed", [True, False])
def test_split_gemm(transposed: bool, bias: bool) -> None:
    model = linear(transposed, bias)
    result = applied(SplitGemm(["/linear"]), model)
    assert operators(result.model) == ["MatMul", *(["Add"] if bias else [])]
    assert [node.name for node in result.model.graph.node] == ["/linear", *(["/linear:bias"] if bias else [])]
    np.testing.assert_allclose(run(result.model, X), run(model, X), rtol=1e-5, atol=1e-6)


def test_split_gemm_leaves_other_nodes_alone() -> None:
    assert not applied(SplitGemm(["/other"]), linear()).changed
    scaled = model_of([helper.make_node("Gemm", ["x", "w"], ["y"], name="/linear", alpha=2.0)], [3, 4], {"w": WEIGHT})
    assert not applied(SplitGemm(["/linear"]), scaled).changed


# --- IsolateInputs, remove_identities, remove_unused ---


def residual() -> onnx.ModelProto:
    """y = (x w) w' + (x w) w'', where two products share the weight "w" and the sum reads the first product."""
    square = RNG.standard_normal((4, 4)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], name="/first"),
        helper.make_node("MatMul", ["a", "w"], ["b"], name="/second"),
        helper.make_node("Add", ["a", "b"], ["y"], name="/sum"),
    ]
    return model_of(nodes, [3, 4], {"w": square})


def test_isolated_nodes_share_no_input_with_others_and_identities_go_again() -> None:
    model = residual()
    isolated = applied(IsolateInputs(["/second"]), model).model
    readers = {node.name: list(node.input) for node in isolated.graph.node}
    assert readers["/second"] == [f"a{SUFFIX}", f"w{SUFFIX}"]
    assert readers["/first"] == ["x", "w"]
    assert readers["/sum"] == ["a", "b"]
    np.testing.assert_array_equal(run(isolated, X), run(model, X))
    back = run_passes(isolated, [remove_identities, deduplicate_initializers]).model
    assert operators(back) == operators(model)
    assert [tensor.name for tensor in back.graph.initializer] == ["w"]
    assert not applied(IsolateInputs([]), model).changed


def test_unused_nodes_initializers_and_domains_are_removed() -> None:
    model = residual()
    model.graph.node.append(helper.make_node("Relu", ["a"], ["nowhere"], name="/unused"))
    model.graph.initializer.append(numpy_helper.from_array(BIAS, "unread"))
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    result = applied(remove_unused, model).model
    assert operators(result) == ["MatMul", "MatMul", "Add"]
    assert [tensor.name for tensor in result.graph.initializer] == ["w"]
    assert [entry.domain for entry in result.opset_import] == [""]
    assert not applied(remove_unused, result).changed


# --- deduplicate_initializers, sort_nodes, simplify ---


def test_equal_initializers_are_stored_once() -> None:
    nodes = [
        helper.make_node("Add", ["x", "a"], ["s"], name="/one"),
        helper.make_node("Add", ["s", "b"], ["t"], name="/two"),
        helper.make_node("Add", ["t", "c"], ["y"], name="/three"),
    ]
    large = RNG.standard_normal((300, 4)).astype(np.float32)
    model = model_of(nodes, [300, 4], {"a": large, "b": large.copy(), "c": large + 1})
    result = applied(deduplicate_initializers, model).model
    assert [tensor.name for tensor in result.graph.initializer] == ["a", "c"]
    x = RNG.standard_normal((300, 4)).astype(np.float32)
    np.testing.assert_array_equal(run(result, x), run(model, x))
    assert not applied(deduplicate_initializers, result).changed


def test_nodes_are_sorted() -> None:
    model = residual()
    model.graph.node.insert(0, model.graph.node.pop())
    assert operators(model) == ["Add", "MatMul", "MatMul"]
    result = applied(sort_nodes, model).model
    assert operators(result) == ["MatMul", "MatMul", "Add"]
    onnx.checker.check_model(result, full_check=True)
    assert not applied(sort_nodes, result).changed


def test_constants_are_folded() -> None:
    nodes = [
        helper.make_node("Add", ["b", "b"], ["twice"], name="/fold"),
        helper.make_node("MatMul", ["x", "w"], ["product"], name="/product"),
        helper.make_node("Sub", ["product", "twice"], ["y"], name="/sub"),
    ]
    model = model_of(nodes, [3, 4], {"w": WEIGHT, "b": BIAS})
    result = applied(simplify, model).model
    assert operators(result) == ["MatMul", "Sub"]
    np.testing.assert_allclose(run(result, X), run(model, X), rtol=1e-6)


# --- DeclareSignature, CheckStatic ---


def test_the_signature_is_declared_or_refused() -> None:
    model = model_of([helper.make_node("Relu", ["x"], ["y"], name="/relu")], ["n", 4])
    shape = (OBJECTS, 4)
    wanted = GraphSignature((TensorSpec("x", "float32", shape),), (TensorSpec("y", "float32", shape),))
    result = applied(DeclareSignature(wanted), model).model
    for value in (*result.graph.input, *result.graph.output):
        assert [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim] == [OBJECTS, 4]
    assert not applied(DeclareSignature(wanted), result).changed
    other = GraphSignature(wanted.inputs, (TensorSpec("z", "float32", shape),))
    with pytest.raises(ExportError, match=r"has \['y'\], expected \['z'\]"):
        DeclareSignature(other)(model)
    half = GraphSignature((TensorSpec("x", "float16", shape),), wanted.outputs)
    with pytest.raises(ExportError, match="'x' was not traced as float16"):
        DeclareSignature(half)(model)


def test_a_graph_that_is_not_static_is_refused_by_name() -> None:
    static = model_of([helper.make_node("Relu", ["x"], ["y"], name="/relu")], [OBJECTS, 4])
    assert not applied(CheckStatic("encode"), static).changed
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"], name="/shape"),
        helper.make_node("Reshape", ["x", "shape"], ["y"], name="/reshape"),
    ]
    with pytest.raises(ExportError, match="graph 'encode' is not static: Shape at '/shape'"):
        CheckStatic("encode")(model_of(nodes, [OBJECTS, 4]))


# --- InsertQdq, ConvertToFloat16, round_to_float16 ---


def test_qdq_pairs_stand_before_both_factors_and_round_them() -> None:
    model = SplitGemm(["/linear"])(linear()).model
    result = run_passes(applied(InsertQdq(["/linear"], {"x": (-3.0, 3.0)}), model).model, [sort_nodes]).model
    onnx.checker.check_model(result, full_check=True)
    assert sorted(operators(result)) == ["Add", "DequantizeLinear", "DequantizeLinear", "MatMul", "QuantizeLinear"]
    scale = np.float32(3.0 / 127)
    steps = np.abs(WEIGHT).max(axis=0) / np.float32(127)
    rounded_x = np.clip(np.rint(X / scale), -128, 127) * scale
    expected = rounded_x @ (np.rint(WEIGHT / steps) * steps) + BIAS
    np.testing.assert_allclose(run(result, X), expected, rtol=1e-4, atol=1e-4)
    assert not applied(InsertQdq([], {}), model).changed


def test_float16_is_where_it_is_asked_for_with_one_cast_at_each_border() -> None:
    nodes = [
        helper.make_node("Mul", ["x", "k"], ["a"], name="/half"),
        helper.make_node("Relu", ["a"], ["b"], name="/float/one"),
        helper.make_node("Neg", ["a"], ["c"], name="/float/two"),
        helper.make_node("Add", ["b", "c"], ["y"], name="/float/sum"),
    ]
    model = model_of(nodes, [3, 4], {"k": np.float32(1.1).reshape(1)})
    ends = GraphSignature(ENDS.inputs, (TensorSpec("y", "float32", (3, 4)),))
    result = applied(ConvertToFloat16(lambda name: name == "/half", ends), model).model
    assert operators(result) == ["Cast", "Mul", "Cast", "Relu", "Neg", "Add"]
    assert [(tensor.name, tensor.data_type) for tensor in result.graph.initializer] == [("k:fp16", TensorProto.FLOAT16)]
    half = (X.astype(np.float16) * np.float16(1.1)).astype(np.float32)
    # ONNX Runtime may keep the product in float32 on a CPU: half a unit in the last place of float16 each way.
    np.testing.assert_allclose(run(result, X), np.maximum(half, 0) - half, rtol=2e-3)
    assert not applied(ConvertToFloat16(lambda name: False, ends), model).changed


def test_an_fp16_output_keeps_its_name_and_type() -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["y"], name="/relu"),
    ]
    ends = GraphSignature(ENDS.inputs, (TensorSpec("y", "float32", (3, 4)),))
    result = applied(ConvertToFloat16(lambda name: True, ends), model_of(nodes, [3, 4])).model
    assert operators(result) == ["Cast", "Relu", "Cast"]
    assert [value.type.tensor_type.elem_type for value in result.graph.output] == [TensorProto.FLOAT]
    assert run(result, X).dtype == np.float32


def test_float16_rounds_after_every_operation() -> None:
    nodes = [
        helper.make_node("Mul", ["x", "k"], ["a"], name="/up"),
        helper.make_node("Div", ["a", "k"], ["y"], name="/down"),
    ]
    ends = GraphSignature(ENDS.inputs, (TensorSpec("y", "float32", (3, 4)),))
    k = np.float32(1.1).reshape(1)
    half = ConvertToFloat16(lambda name: True, ends)(model_of(nodes, [3, 4], {"k": k})).model
    result = applied(round_to_float16, half).model
    expected = X.astype(np.float16) * k.astype(np.float16) / k.astype(np.float16)
    np.testing.assert_array_equal(run(result, X), expected.astype(np.float32))
    assert not applied(round_to_float16, model_of(nodes, [3, 4], {"k": k})).changed
