"""What TensorRT's compiler makes of the graphs of a frame, with no GPU: kernels, fused attentions, types, bytes moved.

    python -m benchmarks.layer_traffic efficienttam_ti_512x512 efficienttam_ti_2
    python -m benchmarks.layer_traffic MODEL --graphs track --bundles fp16 --cross-attention whole blocks fused

Graphs are compiled for two objects, so that all sizes are known, and ahead of time for compute capability 8.0. Weights
of the official architectures are seeded and int8 scales are made up: types and sizes do not depend on them. Prints a
table in Markdown. Needs TensorRT for RTX: pip install "etam-edge[rtx]".
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from pathlib import Path

import onnx

from etam_edge.bundle import graph_signatures
from etam_edge.calibration.qdq import QdqQuantizer
from etam_edge.exporters.attention_roofline import attention_for
from etam_edge.exporters.checkpoints import fetch_checkpoint, load_model
from etam_edge.exporters.graphs.modules import graph_modules
from etam_edge.exporters.graphs.tracing import export_graph
from etam_edge.exporters.precision import convert_graph, convert_signature
from etam_edge.exporters.tensorrt.layer_types import Layer, computes_in, layers, multiplies, summarize
from etam_edge.model.efficienttam import EfficientTAM
from etam_edge.recipe import FP16, FP32, INT8, Recipe
from etam_edge.runtimes.backends.tensorrt.tensorrt_module import import_tensorrt
from etam_edge.spec import NANO, CrossAttention, GraphSizes, ModelSpec, find_spec
from etam_edge.workflows.quantize import with_scales_for
from etam_edge_testing.compiled import compile_fixed
from etam_edge_testing.golden_runs import seeded_model
from etam_edge_testing.made_up_ranges import made_up_ranges

RECIPES = {
    "fp32": Recipe.default(FP32),
    "fp16": Recipe.default(FP16),
    "int8": Recipe.default(INT8),
    "int8-fp16-scales": with_scales_for("10", Recipe.default(INT8)),
}
COLUMNS = (
    *("model", "graph", "cross-attention", "bundle", "kernels", "fused attentions"),
    *("multiplying: int8", "fp16", "fp32", "int8 products write", "MB moved"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--graphs", nargs="+", default=["encode", "track"], choices=["encode", "track"])
    parser.add_argument("--bundles", nargs="+", default=["fp16", "int8", "int8-fp16-scales"], choices=list(RECIPES))
    parser.add_argument(
        "--cross-attention", nargs="+", default=["whole"], choices=[one.value for one in CrossAttention]
    )
    parser.add_argument("--keep", type=Path, help="folder for traced graphs, which are traced once")
    arguments = parser.parse_args()
    trt = import_tensorrt("tensorrt-rtx")
    print(f"TensorRT for RTX {trt.__version__}\n")
    print(f"| {' | '.join(COLUMNS)} |\n|{' --- |' * len(COLUMNS)}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        for name in arguments.models:
            for graph in arguments.graphs:
                # The form changes `track` alone.
                for form in arguments.cross_attention if graph == "track" else ["whole"]:
                    sizes = _sizes(find_spec(name), form)
                    source = _traced(name, graph, sizes, folder)
                    for bundle in arguments.bundles:
                        found = compiled(source, graph, find_spec(name), sizes, RECIPES[bundle])
                        print(f"| `{name}` | `{graph}` | {_form(graph, sizes)} | {bundle} | {row(found)} |", flush=True)


def _sizes(spec: ModelSpec, form: str) -> GraphSizes:
    sizes = GraphSizes()
    return dataclasses.replace(sizes, **dataclasses.asdict(attention_for(form, None, spec, sizes)))


def _form(graph: str, sizes: GraphSizes) -> str:
    if graph == "encode":
        return ""
    return sizes.cross_attention.value + (f" ({sizes.query_blocks})" if sizes.query_blocks > 1 else "")


def _traced(name: str, graph: str, sizes: GraphSizes, folder: Path) -> Path:
    """The fp32 graph of a model, traced if the folder does not have it."""
    path = folder / f"{name}-{sizes.cross_attention.value}{sizes.query_blocks}" / f"{graph}.onnx"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        model = _model(name)
        export_graph(graph_modules(model, sizes)[graph], graph_signatures(model.spec, sizes)[graph], path)
    return path


def _model(name: str) -> EfficientTAM:
    return seeded_model(name, 11) if name != NANO.name else load_model(find_spec(name), fetch_checkpoint(name))


def compiled(source: Path, graph: str, spec: ModelSpec, sizes: GraphSizes, recipe: Recipe) -> list[Layer]:
    """Layers of a graph in a precision."""
    signature = convert_signature(graph_signatures(spec, sizes)[graph], recipe)
    model, _ = convert_graph(graph, onnx.load(source), signature, spec, recipe, QdqQuantizer(made_up_ranges()))
    return layers(compile_fixed(model, signature).log)


def row(found: list[Layer]) -> str:
    """The columns of a graph, from its kernels on."""
    summary = summarize(found)
    counts = [sum(multiplies(one) and computes_in(one) == word for one in found) for word in (INT8, FP16, FP32)]
    outputs = ", ".join(f"{count} {kind}" for kind, count in summary.int8_outputs.items())
    values = (summary.kernels, summary.fused_attentions, *counts, outputs, f"{(summary.bytes_moved or 0) / 1e6:.1f}")
    return " | ".join(map(str, values))


if __name__ == "__main__":
    main()
