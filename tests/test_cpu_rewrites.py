"""The graphs that ONNX Runtime is given on a CPU, and whole bundles in every int8 form."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from conftest import SmallBundleMaker

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from etam_edge import Prompt, Tracker
from etam_edge.bundle import Bundle
from etam_edge.calibration.qdq import QdqQuantizer
from etam_edge.errors import InputError
from etam_edge.exporters.precision import derive_bundle
from etam_edge.recipe import FP32, INT8, Recipe
from etam_edge.runtimes.backends.onnxruntime import int8_forms
from etam_edge.runtimes.backends.onnxruntime.backend import OnnxRuntimeBackend
from etam_edge.runtimes.backends.onnxruntime.cpu_rewrites import rewrite_for_cpu
from etam_edge.runtimes.backends.onnxruntime.int8_forms import (
    EXACT_FORMS,
    FLOAT,
    UINT8_INT8,
    UINT8_UINT8,
    Int8Form,
    form_of_this_cpu,
    is_exact,
    kernel_product,
)
from etam_edge.runtimes.backends.onnxruntime.options import OnnxRuntimeOptions
from etam_edge.spec import Pooling
from etam_edge_testing.made_up_ranges import made_up_ranges
from etam_edge_testing.onnx_graphs import example_feeds, operators, run_graph
from etam_edge_testing.saturating_kernel import saturating_cpu
from etam_edge_testing.small import clip_frame

GRAPH_TOLERANCE = 0.02
"""Of an output's root mean square, between exact forms and float32. Each product agrees to 2e-6; a number that lies
between two int8 steps may be rounded to the other one before the next product."""
STREAM_IOU = 0.9
"""Least IoU of the masks of a short stream between exact forms and float32, with every region in int8, the decoder too.
Exact forms among each other give the same masks."""


def test_a_graph_without_anything_to_rewrite_is_returned_as_it_is(small_bundle: SmallBundleMaker) -> None:
    data = Bundle.load(small_bundle(Pooling.NONE)).graph_path("encode").read_bytes()
    assert rewrite_for_cpu(data, FLOAT) is data


def test_sessions_run_rewritten_graphs(small_bundle: SmallBundleMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The backend rewrites on a CPU, and has queries split where there is memory attention and nowhere else."""
    seen: list[tuple[str, int | None]] = []

    def counted(data: bytes, form: Int8Form, memory_queries: int | None, skip: tuple[str, ...]) -> bytes:
        seen.append((form.name, memory_queries))
        return rewrite_for_cpu(data, form, memory_queries, skip)

    monkeypatch.setattr("etam_edge.runtimes.backends.onnxruntime.cpu_rewrites.rewrite_for_cpu", counted)
    tracker = Tracker.load(small_bundle(Pooling.NONE), "onnxruntime", provider="cpu")
    assert seen == [("float", None)] * 3 + [("float", 64)], "the bundle has no int8"
    assert tracker.int8_form is None


# --- int8 ---


@pytest.fixture(scope="module")
def int8_bundle(small_bundle: SmallBundleMaker, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The small model in int8, with all regions that int8 can take on a CPU."""
    source = Bundle.load(small_bundle(Pooling.SCORE_BIAS))
    recipe = Recipe.default(INT8, FP32).with_regions({"neck": INT8, "memory_encoder": INT8, "mask_decoder": INT8})
    path = tmp_path_factory.mktemp("int8") / "bundle"
    return derive_bundle(source, path, recipe, INT8, {}, QdqQuantizer(made_up_ranges()))


def load(bundle: Bundle, form: Int8Form, *skip: str) -> OnnxRuntimeBackend:
    return OnnxRuntimeBackend(bundle, "cpu", OnnxRuntimeOptions(int8_form=form.name, skip_rewrites=skip))


def outputs(bundle: Bundle, form: Int8Form, graph: str) -> list[np.ndarray]:
    return load(bundle, form).session(graph).run(None, example_feeds(bundle, graph, objects=2))


def exact_here(form: Int8Form) -> bool:
    return not form.integer or is_exact(form, kernel_product)


@pytest.mark.parametrize("graph", ["encode", "prompt", "remember", "track"])
@pytest.mark.parametrize("form", EXACT_FORMS, ids=lambda form: form.name)
def test_whole_graphs_agree_between_the_forms(int8_bundle: Bundle, form: Int8Form, graph: str) -> None:
    if not exact_here(form):
        pytest.skip(f"{form.name} saturates on this CPU; test_fuse_int8_products compares it with the emulation")
    names = [tensor.name for tensor in int8_bundle.manifest.graphs[graph].signature.outputs]
    plain = run_graph(int8_bundle.graph_path(graph).read_bytes(), example_feeds(int8_bundle, graph, objects=2))
    for name, found, expected in zip(names, outputs(int8_bundle, form, graph), plain, strict=True):
        difference = np.sqrt(np.mean((found - expected) ** 2.0)) / max(np.sqrt(np.mean(expected**2.0)), 1e-6)
        assert difference < GRAPH_TOLERANCE, name


@pytest.mark.parametrize("graph", ["encode", "remember"])
def test_without_the_rewriting_products_are_computed_in_float(int8_bundle: Bundle, graph: str) -> None:
    """ONNX Runtime's own fusion of Q/DQ pairs, which saturates on some CPUs, is off."""
    feeds = example_feeds(int8_bundle, graph)
    found = load(int8_bundle, UINT8_INT8, "fuse_int8_products").session(graph).run(None, feeds)[0]
    plain = run_graph(int8_bundle.graph_path(graph).read_bytes(), feeds)[0]
    assert np.sqrt(np.mean((found - plain) ** 2.0)) < GRAPH_TOLERANCE * np.sqrt(np.mean(plain**2.0))


def test_products_that_no_pass_rewrites_are_computed_in_float(int8_bundle: Bundle) -> None:
    """The decoder has one of a constant first factor, which ONNX Runtime would fuse and then refuse to run."""
    data = int8_bundle.graph_path("track").read_bytes()
    assert operators(rewrite_for_cpu(data, UINT8_UINT8, 64))["DequantizeLinear"] > 0
    assert all(np.isfinite(output).all() for output in outputs(int8_bundle, form_of_this_cpu(), "track"))


def test_streams_agree_between_the_forms(int8_bundle: Bundle) -> None:
    def masks(form: Int8Form) -> np.ndarray:
        session = Tracker(int8_bundle, load(int8_bundle, form)).start_session()
        prompt = {1: Prompt(box=(30, 30, 100, 100))}
        return np.stack([session.track(clip_frame(i), prompt if i == 0 else None).masks[0] for i in range(6)])

    plain, integers = masks(FLOAT), [masks(form) for form in EXACT_FORMS if exact_here(form)]
    assert plain.any()
    assert len(integers) >= 2
    for found in integers:
        np.testing.assert_array_equal(found, integers[0])
        assert (found & plain).sum() >= STREAM_IOU * (found | plain).sum()


def test_a_cpu_that_saturates_is_given_an_exact_form(
    int8_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The probe sees the emulated kernel; loading says which form it took, and the loaded graphs have it."""
    monkeypatch.setattr(int8_forms, "kernel_product", saturating_cpu)
    monkeypatch.setattr(int8_forms, "kernel_seconds", lambda form: 1.0)
    form_of_this_cpu.cache_clear()
    try:
        with caplog.at_level(logging.INFO, logger="etam_edge"):
            tracker = Tracker.load(int8_bundle.path, "onnxruntime", provider="cpu")
    finally:
        form_of_this_cpu.cache_clear()
    assert tracker.int8_form == UINT8_UINT8.name
    assert [record.message for record in caplog.records] == [
        f"{int8_bundle.path}: int8 products are computed as uint8 x uint8 on this CPU"
    ]


def test_the_default_form_is_not_logged(
    int8_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="etam_edge"):
        assert load(int8_bundle, UINT8_INT8).int8_form == UINT8_INT8.name
    assert not caplog.records


def test_an_unknown_form_is_refused() -> None:
    with pytest.raises(InputError, match="int8_form 'int4' is not known; use uint8 x int8, "):
        OnnxRuntimeOptions(int8_form="int4")


def test_every_quantized_product_of_the_default_regions_is_fused(
    small_bundle: SmallBundleMaker, tmp_path: Path
) -> None:
    source = Bundle.load(small_bundle(Pooling.SCORE_BIAS))
    bundle = derive_bundle(
        source, tmp_path / "int8", Recipe.default(INT8, FP32), INT8, {}, QdqQuantizer(made_up_ranges())
    )
    for name in ("encode", "remember", "track"):
        found = operators(rewrite_for_cpu(bundle.graph_path(name).read_bytes(), UINT8_UINT8, 64))
        assert found["MatMulIntegerToFloat"] > 0, name
        assert found["DequantizeLinear"] == 0, name
