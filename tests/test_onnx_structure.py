"""Graphs are read before they are run: what could run for ever or read other files is refused, and what is no graph."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import SmallBundleMaker

from etam_edge.bundle import GRAPH_NAMES, Bundle, sha256_of
from etam_edge.bundle.onnx_structure import read_structure
from etam_edge.errors import BundleError
from etam_edge.spec import Pooling
from etam_edge_testing.fuzz import Outcomes, attempts, mutate_bytes
from etam_edge_testing.manifests import manifest_fields, write_manifest

onnx = pytest.importorskip("onnx")


@pytest.fixture
def path(small_bundle: SmallBundleMaker, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(small_bundle(Pooling.SCORE_BIAS), tmp_path / "bundle"))


def rehash(path: Path, graph: str) -> None:
    """Write the hash of a changed graph into the manifest."""
    fields = manifest_fields(path)
    fields["graphs"][graph]["sha256"] = sha256_of(path / "graphs" / f"{graph}.onnx")
    write_manifest(path, fields)


def loop(model: Any) -> None:
    """An endless loop before the first node."""
    body = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["go_on"], ["again"])],
        "body",
        [
            onnx.helper.make_tensor_value_info("count", onnx.TensorProto.INT64, []),
            onnx.helper.make_tensor_value_info("go_on", onnx.TensorProto.BOOL, []),
        ],
        [onnx.helper.make_tensor_value_info("again", onnx.TensorProto.BOOL, [])],
    )
    model.graph.initializer.append(onnx.numpy_helper.from_array(onnx.numpy_helper.np.array(True), "always"))
    model.graph.node.insert(0, onnx.helper.make_node("Loop", ["", "always"], [], body=body))


def external(model: Any) -> None:
    tensor = max(model.graph.initializer, key=lambda one: len(one.raw_data))
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../weights.bin")


def external_in_a_constant(model: Any) -> None:
    tensor = onnx.helper.make_tensor("c", onnx.TensorProto.FLOAT, [1], [0.0])
    tensor.external_data.add(key="location", value="/etc/hostname")
    model.graph.node.insert(0, onnx.helper.make_node("Constant", [], ["unused"], value=tensor))


def function(model: Any) -> None:
    model.functions.append(
        onnx.helper.make_function("mine", "f", ["x"], ["y"], [onnx.helper.make_node("Identity", ["x"], ["y"])], [])
    )


def rename(model: Any) -> None:
    model.graph.input[0].name = "picture"


def retype(model: Any) -> None:
    model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.DOUBLE


def reshape(model: Any) -> None:
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 7


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (loop, r"is not run: it has control flow \(Loop\); it has a graph inside a node"),
        (external, r"is not run: its weights are in another file \(external data\)"),
        (external_in_a_constant, r"is not run: its weights are in another file \(external data\)"),
        (function, "is not run: it defines functions of its own"),
        (rename, r"has other inputs or outputs than its manifest says \(frame, picture\)"),
        (retype, r"has other inputs or outputs than its manifest says \(image_features\)"),
        (reshape, r"has other inputs or outputs than its manifest says \(image_features\)"),
    ],
)
def test_graph_that_must_not_be_run_is_refused(change: Callable[[Any], None], sentence: str, path: Path) -> None:
    file = path / "graphs" / "encode.onnx"
    model = onnx.load(file)
    change(model)
    file.write_bytes(model.SerializeToString())
    rehash(path, "encode")
    with pytest.raises(BundleError, match=sentence):
        Bundle.load(path)


def test_structure_is_what_the_manifest_says(path: Path) -> None:
    for name, entry in Bundle.load(path).manifest.graphs.items():
        structure = read_structure(path / "graphs" / f"{name}.onnx")
        assert structure.signature == entry.signature
        assert not structure.problems


@pytest.mark.parametrize("content", [b"", b"not a graph", b"\xff" * 40, b"\x3a\x05abc", bytes(64)])
def test_file_that_is_no_model_is_refused(content: bytes, path: Path) -> None:
    (path / "graphs" / "track.onnx").write_bytes(content)
    rehash(path, "track")
    with pytest.raises(BundleError, match=r"track\.onnx is damaged"):
        Bundle.load(path)


def test_fuzzed_graphs(path: Path) -> None:
    """Damaged bytes outside the weights, with a hash that is right: read to the end or refused."""
    outcomes = Outcomes()
    files = [path / "graphs" / f"{name}.onnx" for name in GRAPH_NAMES]
    originals = {file: file.read_bytes() for file in files}
    for source in attempts(40):
        file = source.choice(files)
        data = originals[file]
        start = source.choice([0, len(data) - 4000, source.randrange(len(data))])
        end = start + 4000
        (path / "damaged.onnx").write_bytes(data[:start] + mutate_bytes(data[start:end], source) + data[end:])
        with outcomes.attempt(f"{file.name} from {start}", allowed=(ValueError,)):
            read_structure(path / "damaged.onnx")
    outcomes.check(refused=10, accepted=1)
