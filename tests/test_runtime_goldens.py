"""Exported graphs, run by a session, reproduce the outputs of the reference."""

from __future__ import annotations

import pytest
from conftest import BundleMaker, golden_parameters

from etam_edge import Tracker
from etam_edge_testing.golden_runs import session_outputs
from etam_edge_testing.goldens import GOLDENS, Comparison, Golden

pytest.importorskip("onnxruntime")


@pytest.mark.parametrize("golden", golden_parameters(GOLDENS))
def test_session_reproduces_golden(golden: Golden, seeded_bundle: BundleMaker) -> None:
    tracker = Tracker.load(seeded_bundle(*golden.weights_id), runtime="onnxruntime", provider="cpu")
    comparison = Comparison(golden)
    comparison.check(session_outputs(golden, tracker))
    print(comparison.row())
    assert not comparison.failures
