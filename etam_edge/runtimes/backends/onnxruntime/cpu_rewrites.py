"""The graph that ONNX Runtime is given on a CPU.

A bundle's graphs hold standard operators only, so that every runtime can read them. ONNX Runtime has operators of its
own (domain com.microsoft) that compute the same in less time; they are put in when a graph is loaded.
"""

from __future__ import annotations

from collections.abc import Collection

from etam_edge.runtimes.backends.onnxruntime.int8_forms import Int8Form
from etam_edge.runtimes.backends.onnxruntime.onnx_file import DOMAIN, OnnxFile
from etam_edge.runtimes.backends.onnxruntime.passes.fuse_attention import fuse_attention
from etam_edge.runtimes.backends.onnxruntime.passes.fuse_int8_products import fuse_int8_products
from etam_edge.runtimes.backends.onnxruntime.passes.split_queries import split_queries


def rewrite_for_cpu(
    data: bytes, form: Int8Form, memory_queries: int | None = None, skip: Collection[str] = ()
) -> bytes:
    """Rewrite a graph for ONNX Runtime's CPU kernels. Its results stay the same to rounding error.

    Args:
        data: content of an .onnx file.
        form: of int8 products.
        memory_queries: number of queries of memory cross-attention (tokens of a frame, or of a block of them), in the
            graph that has it.
        skip: names of passes that are not applied.

    Returns:
        the rewritten model, or `data` itself where no pass changed it.

    Raises:
        BundleError: the data is not an ONNX model.
    """
    file = OnnxFile(data)
    changed = 0
    if "fuse_attention" not in skip:
        changed += fuse_attention(file)
    if "fuse_int8_products" not in skip:
        changed += fuse_int8_products(file, form=form)
    if memory_queries is not None and "split_queries" not in skip:
        # After the int8 products, which change the operator that computes the scores.
        changed += split_queries(file, tokens=memory_queries)
    if not changed:
        return data
    file.add_domain(DOMAIN, 1)
    return file.to_bytes()
