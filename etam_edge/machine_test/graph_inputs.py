"""Inputs for a single graph, the same to the last bit on every machine."""

from __future__ import annotations

import zlib

import numpy as np

from etam_edge.bundle import GraphSignature, TensorSpec
from etam_edge.machine_test.scene import frame
from etam_edge.spec import EMPTY_BIAS, EMPTY_POINT, MASK_SOURCE_LOGITS, ModelSpec

LOGIT_SCALE = 6.0
"""Mask logits are uniform up to this."""


def graph_inputs(signature: GraphSignature, spec: ModelSpec, objects: int) -> dict[str, np.ndarray]:
    """All inputs of a graph. Features, keys and values are uniform, with a variance of one.

    Args:
        signature: of the graph.
        spec: of the model.
        objects: rows of inputs that have an object axis.
    """
    return {tensor.name: _value(tensor, spec, objects) for tensor in signature.inputs}


def _value(tensor: TensorSpec, spec: ModelSpec, objects: int) -> np.ndarray:
    shape, dtype = tensor.sized(objects), np.dtype(tensor.dtype)
    # RandomState is frozen: its numbers are the same in every version of NumPy.
    uniform = np.random.RandomState(zlib.crc32(tensor.name.encode())).random_sample(shape)
    count = int(np.prod(shape))
    position = np.arange(count).reshape(shape)
    value: np.ndarray
    match tensor.name:
        case "frame":
            return frame(0, (shape[1], shape[2]))[None]
        case "points":
            value = uniform * spec.image_size
        case "labels":
            # A box's corners; the other places are unused.
            value = np.where(position % shape[-1] < 2, position % shape[-1] + 2, EMPTY_POINT)
        case "mask":
            value = uniform > 0.5
        case "mask_source":
            value = np.full(shape, MASK_SOURCE_LOGITS)
        case "multimask" | "without_memory":
            value = np.zeros(shape)
        case "mask_logits" | "previous_logits":
            value = (2 * uniform - 1) * LOGIT_SCALE
        case "time_codes":
            value = position % (spec.memory_frames + 1)
        case "slot_bias" | "pointer_bias":
            # The last slot of each object is empty.
            value = np.where(position % shape[-1] == shape[-1] - 1, EMPTY_BIAS, 0.0)
        case _:
            value = (2 * uniform - 1) * np.sqrt(3)
    return np.ascontiguousarray(value, dtype=dtype)
