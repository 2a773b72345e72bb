"""From graph modules to ONNX files: traced, constants folded, and checked to be static."""

from __future__ import annotations

import warnings
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from etam_edge.bundle import OBJECTS, GraphSignature, TensorSpec
from etam_edge.exporters.passes.base import run_passes
from etam_edge.exporters.passes.check_static import CheckStatic
from etam_edge.exporters.passes.declare_signature import DeclareSignature
from etam_edge.exporters.passes.onnx_ir_passes import deduplicate_initializers
from etam_edge.exporters.passes.simplify import simplify

OPSET = 17
"""The highest opset that TensorRT 8.6 parses, and the lowest with LayerNormalization as one node."""


def export_graph(module: nn.Module, signature: GraphSignature, path: Path) -> onnx.ModelProto:
    """Trace a module, fold its constants, check that the graph is static, and write it.

    Args:
        module: takes and returns tensors in the order of the signature.
        signature: of the graph.
        path: file to write; its stem is the graph's name.

    Raises:
        ExportError: the graph is not static or does not have the signature.
    """
    # Two objects while tracing: a batch of one would let broadcasting hide a missing object axis.
    arguments = tuple(example(tensor, objects=2) for tensor in signature.inputs)
    dynamic = {
        tensor.name: {0: OBJECTS} for tensor in (*signature.inputs, *signature.outputs) if tensor.shape[0] == OBJECTS
    }
    with warnings.catch_warnings(), torch.inference_mode():
        # The tracer warns about every size that becomes a constant. Here all sizes are meant to be constants.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            arguments,
            str(path),
            input_names=[tensor.name for tensor in signature.inputs],
            output_names=[tensor.name for tensor in signature.outputs],
            dynamic_axes=dynamic,
            opset_version=OPSET,
            dynamo=False,
        )
    passes = (simplify, deduplicate_initializers, DeclareSignature(signature), CheckStatic(path.stem))
    model = run_passes(onnx.load(path), passes).model
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return model


def example(tensor: TensorSpec, objects: int) -> Tensor:
    """Zeros of a tensor's type and shape for a number of objects, for tracing."""
    return torch.zeros(tensor.sized(objects), dtype=getattr(torch, tensor.dtype))
