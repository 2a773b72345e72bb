"""The PyTorch model reproduces the outputs of the reference, on equal weights."""

from __future__ import annotations

import pytest
from conftest import golden_parameters

from etam_edge_testing.golden_runs import model_outputs, seeded_model
from etam_edge_testing.goldens import GOLDENS, Comparison, Golden

pytest.importorskip("torch")


@pytest.mark.parametrize("golden", golden_parameters(GOLDENS))
def test_model_reproduces_golden(golden: Golden) -> None:
    comparison = Comparison(golden)
    comparison.check(model_outputs(golden, seeded_model(*golden.weights_id)))
    print(comparison.row())
    assert not comparison.failures
