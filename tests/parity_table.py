"""parity_table.py [VARIANT...]: how far model and graphs are from the reference's answers, in Markdown."""

from __future__ import annotations

import sys
import tempfile
from itertools import groupby
from pathlib import Path

from etam_edge import Tracker
from etam_edge.exporters.export import export_bundle
from etam_edge.spec import GraphSizes
from etam_edge_testing.golden_runs import ScenarioOutputs, model_outputs, seeded_model, session_outputs
from etam_edge_testing.goldens import GOLDENS, Comparison, Golden

COLUMNS = ("mask_logits", "obj_ptr", "object_score")


def cells(golden: Golden, answers: ScenarioOutputs) -> str:
    """Largest differences, bits of the masks that differ, and whether all are in tolerance."""
    comparison = Comparison(golden)
    comparison.check(answers)
    differences = " | ".join(f"{comparison.largest[name]:.1e}" for name in COLUMNS)
    return f"{differences} | {comparison.mask_bits}{' (out of tolerance)' if comparison.failures else ''}"


def main(variants: list[str]) -> None:
    sides = " | ".join(f"{side}: logits | pointers | scores | bits" for side in ("PyTorch", "graphs"))
    print(f"| variant | scenario | {sides} |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    ordered = sorted(
        (g for g in GOLDENS if g.variant in variants or not variants), key=lambda golden: golden.weights_id
    )
    for weights_id, group in groupby(ordered, key=lambda golden: golden.weights_id):
        model = seeded_model(*weights_id)
        with tempfile.TemporaryDirectory() as folder:
            export_bundle(model, Path(folder) / "bundle", GraphSizes(), {"name": "seeded", "sha256": ""})
            tracker = Tracker.load(Path(folder) / "bundle", "onnxruntime", provider="cpu")
            for golden in group:
                by_model = cells(golden, model_outputs(golden, model))
                by_graphs = cells(golden, session_outputs(golden, tracker))
                name = f"{golden.scenario}{f', {golden.form}' if golden.form else ''}"
                print(f"| `{golden.variant}` | {name} | {by_model} | {by_graphs} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
