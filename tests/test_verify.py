"""The verification of an export: it runs what a session will run, and it can fail."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import SmallBundleMaker

from etam_edge.bundle import Bundle
from etam_edge.errors import ExportError
from etam_edge.runtimes.backends.arrays import run_on_arrays
from etam_edge.runtimes.backends.onnxruntime.backend import OnnxRuntimeBackend
from etam_edge.spec import Pooling
from etam_edge_testing.small import export_small, small_model
from etam_edge_testing.wrong_rewrite import rewrite_wrongly

pytest.importorskip("onnx")
pytest.importorskip("torch")

from etam_edge.exporters.verify import TOLERANCE, verify_graphs


def test_a_wrong_rewrite_in_the_backend_fails_the_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rewrite_wrongly(monkeypatch)
    with pytest.raises(ExportError, match=r"differ from those of the PyTorch model: .* nothing was written"):
        export_small(Pooling.SCORE_BIAS, tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("pooling", list(Pooling))
def test_every_output_is_compared_and_close(pooling: Pooling, small_bundle: SmallBundleMaker) -> None:
    found = verify_graphs(Bundle.load(small_bundle(pooling)), small_model(pooling))
    assert set(found) == set(TOLERANCE) - {"masks"}
    assert all(0 <= difference < 1e-4 for difference in found.values()), found


def test_another_model_is_told_apart(small_bundle: SmallBundleMaker) -> None:
    with pytest.raises(ExportError, match="image_features differs by"):
        verify_graphs(Bundle.load(small_bundle(Pooling.NONE)), small_model(Pooling.NONE, seed=4))


def test_a_graph_runs_on_arrays_for_any_number_of_objects(small_bundle: SmallBundleMaker) -> None:
    bundle = Bundle.load(small_bundle(Pooling.NONE))
    backend, signature = OnnxRuntimeBackend(bundle, provider="cpu"), bundle.manifest.graphs["remember"].signature
    rng = np.random.default_rng(0)
    shapes = {tensor.name: tensor.sized(3) for tensor in signature.inputs}
    inputs = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    outputs = run_on_arrays(backend, "remember", signature, inputs)
    assert {name: (values.shape, str(values.dtype)) for name, values in outputs.items()} == {
        tensor.name: (tensor.sized(3), tensor.dtype) for tensor in signature.outputs
    }
    last = run_on_arrays(backend, "remember", signature, {**inputs, "mask_logits": inputs["mask_logits"][2:]})
    for name, values in last.items():
        np.testing.assert_allclose(values[0], outputs[name][2], rtol=1e-4, atol=1e-5)
