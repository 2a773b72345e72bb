"""What TensorRT's compiler makes of the graphs, in every precision, with no GPU: layers by what they compute in.

    python -m benchmarks.compiled_layers etam_nano efficienttam_ti_512x512 efficienttam_ti_2

Weights of the official architectures are seeded and int8 scales are made up: types do not depend on them. Prints a
table in Markdown. Needs TensorRT for RTX: pip install "etam-edge[rtx]".
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from pathlib import Path

from rich.progress import track as progress

from etam_edge.bundle import GRAPH_NAMES, Bundle
from etam_edge.calibration.qdq import QdqQuantizer
from etam_edge.exporters.checkpoints import fetch_checkpoint, load_model
from etam_edge.exporters.export import export_bundle
from etam_edge.exporters.precision import derive_bundle
from etam_edge.exporters.tensorrt.builder import BuildOptions, build_engine
from etam_edge.exporters.tensorrt.layer_types import computes_in, layers, multiplies
from etam_edge.recipe import FP16, FP32, INT8, Recipe
from etam_edge.runtimes.backends.tensorrt.tensorrt_module import import_tensorrt
from etam_edge.spec import NANO, GraphSizes, find_spec
from etam_edge_testing.golden_runs import seeded_model
from etam_edge_testing.made_up_ranges import made_up_ranges

TARGETS = {"SM80": (8, 0), "SM86": (8, 6)}
PRECISIONS = (FP32, FP16, INT8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    models = parser.parse_args().models
    trt = import_tensorrt("tensorrt-rtx")
    print(f"TensorRT for RTX {trt.__version__}\n")
    print("| model | graph | target | bundle | multiplying: int8 | fp16 | fp32 | pointwise and other | MB |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for name in models:
        with tempfile.TemporaryDirectory() as folder:
            for row in rows(trt, name, Path(folder)):
                print(f"| {row} |", flush=True)


def rows(trt: object, name: str, folder: Path) -> list[str]:
    official = name != NANO.name
    model = seeded_model(name, 11) if official else load_model(find_spec(name), fetch_checkpoint(name))
    source = export_bundle(model, folder / FP32, GraphSizes(), {"name": "seeded", "sha256": ""})
    quantize = QdqQuantizer(made_up_ranges())
    bundles = {FP32: source} | {
        word: derive_bundle(source, folder / word, Recipe.default(word), word, {}, quantize) for word in (FP16, INT8)
    }
    made = []
    jobs = [(graph, target, word) for graph in GRAPH_NAMES for target in TARGETS for word in PRECISIONS]
    for graph, target, word in progress(jobs, description=name):
        counts, size = compiled(trt, bundles[word], graph, TARGETS[target])
        numbers = [str(counts[kind, precision]) for kind, precision in (("m", INT8), ("m", FP16), ("m", FP32))]
        rest = sum(count for (kind, _), count in counts.items() if kind == "other")
        made.append(" | ".join([name, f"`{graph}`", target, word, *numbers, str(rest), f"{size / 1e6:.1f}"]))
    return made


def compiled(
    trt: object, bundle: Bundle, graph: str, capability: tuple[int, int]
) -> tuple[Counter[tuple[str, str]], int]:
    """Layers by whether they multiply and what they compute in, and the engine's size in bytes."""
    options = BuildOptions(max_objects=4, compute_capabilities=(capability,), verbose=True)
    built = build_engine(trt, bundle.graph_path(graph), bundle.manifest.graphs[graph].signature, options)
    found = layers(built.log)
    return Counter(("m" if multiplies(one) else "other", computes_in(one)) for one in found), len(built.plan)


if __name__ == "__main__":
    main()
