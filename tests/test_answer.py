"""A bundle's answer to a fixed stream: what the graphs compute against what the manifest says."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import CameraBundleMaker, SmallBundleMaker
from typer.testing import CliRunner

from etam_edge.bundle import Answer, Bundle
from etam_edge.cli.app import app
from etam_edge.errors import BundleError, ExportError
from etam_edge.runtimes.answer import GRAPHS, MODEL, TOLERANCE, bundle_answer, check_answer, difference
from etam_edge.runtimes.backends.onnxruntime.backend import OnnxRuntimeBackend
from etam_edge.runtimes.backends.onnxruntime.options import OnnxRuntimeOptions
from etam_edge.spec import Pooling
from etam_edge_testing.manifests import manifest_fields, write_manifest
from etam_edge_testing.refusals import refused
from etam_edge_testing.small import CAMERA

pytest.importorskip("onnxruntime")

NOT_SAID = {Pooling.SCORE_BIAS: Pooling.KEY_BIAS, Pooling.KEY_BIAS: Pooling.SCORE_BIAS}
"""Poolings whose graphs have equal signatures and compute different functions."""


def backend(bundle: Bundle) -> OnnxRuntimeBackend:
    return OnnxRuntimeBackend(bundle, "cpu", OnnxRuntimeOptions(threads=1))


@pytest.fixture
def bundle(request: pytest.FixtureRequest, small_bundle: SmallBundleMaker, tmp_path: Path) -> Bundle:
    """A copy to change."""
    pooling = getattr(request, "param", Pooling.SCORE_BIAS)
    return Bundle.load(shutil.copytree(small_bundle(pooling), tmp_path / "bundle"))


@pytest.mark.parametrize("bundle", list(Pooling), indirect=True, ids=lambda pooling: pooling.value)
def test_graphs_answer_as_the_model(bundle: Bundle) -> None:
    assert bundle.manifest.answer is not None
    assert bundle.manifest.answer.origin == MODEL
    assert check_answer(bundle, backend(bundle)) < 1e-4


def test_camera_bundle_answers_as_the_model(camera_bundle: CameraBundleMaker) -> None:
    bundle = Bundle.load(camera_bundle(CAMERA))
    assert check_answer(bundle, backend(bundle)) < TOLERANCE["fp32"] / 2


@pytest.mark.parametrize("bundle", NOT_SAID, indirect=True, ids=lambda pooling: pooling.value)
def test_other_pooling_than_the_manifest_says_is_found(bundle: Bundle) -> None:
    """Hashes and signatures are right, and the bundle tracks."""
    fields = manifest_fields(bundle.path)
    fields["model"]["pooling"] = NOT_SAID[bundle.manifest.model.pooling].value
    write_manifest(bundle.path, fields)
    changed = Bundle.load(bundle.path)
    with pytest.raises(BundleError, match="do not compute what its manifest says"):
        check_answer(changed, backend(changed))


def test_answer_that_is_missing_or_damaged_is_refused(bundle: Bundle) -> None:
    answer = bundle.manifest.answer
    assert answer is not None
    for wrong, sentence in (
        (None, "holds no answer to compare with"),
        (dataclasses.replace(answer, stream=99), "holds no answer to compare with"),
        (dataclasses.replace(answer, scores=answer.scores[:2]), "is damaged"),
        (dataclasses.replace(answer, logits=[[[1.0]]]), "is damaged"),
        (dataclasses.replace(answer, ious=[[1.0], [2.0, 3.0]]), "is damaged"),
        (dataclasses.replace(answer, pointers=[]), "is damaged"),
        (dataclasses.replace(answer, scores=[[float("nan")] * 2] * 5), "differs by nan"),
    ):
        changed = Bundle(bundle.path, dataclasses.replace(bundle.manifest, answer=wrong))
        with pytest.raises(BundleError, match=sentence):
            check_answer(changed, backend(bundle))


def test_one_object_that_takes_another_candidate_is_rounding(bundle: Bundle) -> None:
    """From the second frame on, one of two objects is another one entirely; half of the stream and more agrees."""
    answer = bundle_answer(bundle, backend(bundle))
    assert answer.origin == GRAPHS
    logits = [[row[0], row[1] if index == 0 else [9.0] * len(row[1])] for index, row in enumerate(answer.logits)]
    assert difference(dataclasses.replace(answer, logits=logits), answer) == 0
    everything = [[[9.0] * len(one) for one in row] for row in answer.logits]
    assert difference(dataclasses.replace(answer, logits=everything), answer) > 0.5


def test_export_refuses_a_bundle_that_does_not_track_as_the_model(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    from etam_edge.exporters.answer import check_against_model
    from etam_edge.runtimes.workspace import Workspace

    answer = bundle.manifest.answer
    assert answer is not None
    check_against_model(bundle, answer)
    monkeypatch.setattr(Workspace, "store", lambda *_: None)
    with pytest.raises(ExportError, match=r"does not track as the PyTorch model does: .*; nothing was written"):
        check_against_model(bundle, answer)


def test_inspect_verifies(bundle: Bundle) -> None:
    result = CliRunner().invoke(app, ["inspect", "--verify", str(bundle.path)])
    assert result.exit_code == 0, result.output
    assert "to a fixed stream as in the manifest" in result.output
    assert (
        "not verified; run: etam-edge inspect --verify" in CliRunner().invoke(app, ["inspect", str(bundle.path)]).output
    )
    fields = manifest_fields(bundle.path)
    fields["answer"]["scores"] = (np.array(fields["answer"]["scores"]) + 5).tolist()
    write_manifest(bundle.path, fields)
    refused(CliRunner().invoke(app, ["inspect", "--verify", str(bundle.path)]), "do not compute what its manifest says")
    del fields["answer"]
    write_manifest(bundle.path, fields)
    assert "which an earlier version wrote" in CliRunner().invoke(app, ["inspect", str(bundle.path)]).output


def test_answer_survives_a_round_trip(bundle: Bundle) -> None:
    answer = bundle.manifest.answer
    assert answer is not None
    assert Answer.from_dict(answer.to_dict()) == answer
