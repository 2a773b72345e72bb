"""Forms of memory cross-attention: equal results, what TensorRT compiles them to, and which one a target gets."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from etam_edge.errors import InputError
from etam_edge.exporters.attention_roofline import (
    GPUS,
    HALF,
    MARGIN,
    WHOLE,
    AttentionForm,
    Gpu,
    attention_for,
    attention_forms,
    attention_seconds,
)
from etam_edge.spec import KEY_MULTIPLE, NANO, CrossAttention, GraphSizes, Pooling, find_spec
from etam_edge_testing.bundle_cache import cached_bundle
from etam_edge_testing.small import SIZES, clip_frame, export_small

TI_512, TI_2 = find_spec("efficienttam_ti_512x512"), find_spec("efficienttam_ti_2")
SMALL_FORMS = {
    CrossAttention.WHOLE: SIZES,
    CrossAttention.BLOCKS: dataclasses.replace(SIZES, cross_attention="blocks", query_blocks=4),
    CrossAttention.FUSED: dataclasses.replace(SIZES, cross_attention="fused"),
}


# --- sizes ---


def test_keys_are_a_multiple_of_64() -> None:
    assert GraphSizes().memory_keys(TI_512) == 8320  # 8 slots of 1024 tokens and 17 pointers of 4: 8260
    assert GraphSizes(conditioning_frames=1).memory_keys(TI_512) == 7 * 1024 + 16 * 4 == 7232
    for spec in (TI_512, TI_2, NANO):
        assert GraphSizes().memory_keys(spec) % KEY_MULTIPLE == 0


def test_sizes_of_a_form_pass_through_a_manifest() -> None:
    for sizes in SMALL_FORMS.values():
        assert GraphSizes(**sizes.to_dict()) == sizes
    assert "cross_attention" not in SIZES.to_dict(), "bundles of the usual form can be read by older versions"
    with pytest.raises(InputError, match="`cross_attention=flash` is not known; use whole, blocks, fused"):
        GraphSizes(cross_attention="flash")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="query_blocks of 1 does not fit cross_attention=blocks"):
        GraphSizes(cross_attention=CrossAttention.BLOCKS)
    with pytest.raises(InputError, match="query_blocks of 4 does not fit cross_attention=whole"):
        GraphSizes(query_blocks=4)


# --- results ---


def small_form(form: CrossAttention) -> Path:
    """The small model in a form. Not to be changed: it is cached. `export_small` compares it with the PyTorch model."""
    pytest.importorskip("torch")
    export = partial(export_small, Pooling.SCORE_BIAS, sizes=SMALL_FORMS[form])
    return cached_bundle(f"small-attention-{form.value}", export)


@pytest.mark.full
@pytest.mark.parametrize("form", [CrossAttention.BLOCKS, CrossAttention.FUSED])
def test_streams_agree_in_every_form(form: CrossAttention) -> None:
    """Masks and pointers of two objects over a full memory, and a state that one form saves and another resumes."""
    from etam_edge import Prompt, Tracker

    trackers = [Tracker.load(small_form(one), runtime="onnxruntime") for one in (CrossAttention.WHOLE, form)]
    sessions = [tracker.start_session() for tracker in trackers]
    prompts = {1: Prompt(points=[(64.0, 60.0)], labels=[1]), 2: Prompt(box=(10.0, 10.0, 50.0, 60.0))}
    for index in range(11):
        found = [session.track(clip_frame(index), prompts if index == 0 else None) for session in sessions]
        np.testing.assert_allclose(found[1].mask_logits, found[0].mask_logits, rtol=1e-3, atol=2e-3)
        for name in (1, 2):
            pointers = [session.object_pointer(name) for session in sessions]
            np.testing.assert_allclose(pointers[1], pointers[0], rtol=1e-3, atol=1e-3)


def test_wrong_blocks_are_refused() -> None:
    pytest.importorskip("torch")
    from etam_edge.exporters.graphs.static_memory import StaticMemoryAttention
    from etam_edge_testing.small import small_model

    sizes = dataclasses.replace(SIZES, cross_attention="blocks", query_blocks=3)
    with pytest.raises(InputError, match="64 queries do not divide into `query_blocks=3` blocks"):
        StaticMemoryAttention(small_model(Pooling.NONE), sizes)


# --- what TensorRT makes of them ---


def test_fused_attentions_and_traffic_of_every_form(tmp_path: Path) -> None:
    """One self-attention of two is fused in all forms, and only the fused form fuses cross-attention."""
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
    import onnx

    from etam_edge.bundle import Bundle
    from etam_edge.exporters.precision import derive_bundle
    from etam_edge.exporters.tensorrt.layer_types import GraphLayers, layers, summarize
    from etam_edge.recipe import FP16, Recipe
    from etam_edge_testing.compiled import compile_fixed

    found: dict[CrossAttention, GraphLayers] = {}
    moved: dict[CrossAttention, int] = {}
    for form, sizes in SMALL_FORMS.items():
        source = Bundle.load(small_form(form))
        half = derive_bundle(source, tmp_path / form.value, Recipe.default(FP16), FP16, {})
        signature = half.manifest.graphs["track"].signature
        compiled = layers(compile_fixed(onnx.load(half.graph_path("track")), signature).log)
        spec = source.manifest.model
        rows = (2, spec.tokens // sizes.query_blocks, sizes.memory_keys(spec))
        scores = [layer for layer in compiled for tensor in layer.written if tensor.shape == rows]
        softmax = [layer for layer in scores if layer.kind == "kgen"]
        is_fused = form is CrossAttention.FUSED
        if not is_fused:
            assert len(softmax) == spec.memory_layers * sizes.query_blocks
        found[form] = summarize(compiled)
        assert found[form].fused_attentions == spec.memory_layers - 1 + (spec.memory_layers if is_fused else 0)
        moved[form] = found[form].bytes_moved or 0
    assert 0 < moved[CrossAttention.FUSED] < moved[CrossAttention.WHOLE] < moved[CrossAttention.BLOCKS]
    assert (
        found[CrossAttention.FUSED].kernels < found[CrossAttention.WHOLE].kernels < found[CrossAttention.BLOCKS].kernels
    )


# --- the choice ---

GPU = Gpu("drawn", matrix_flops=2e13, bandwidth=1e11, cache=4 << 20, multiprocessors=8)


def test_the_roofline_counts_what_the_forms_move() -> None:
    keys = GraphSizes().memory_keys(TI_512)
    whole = attention_seconds(GPU, WHOLE, TI_512, keys)
    # Without arithmetic, what is left is the traffic: scores four times, queries, keys, values and the result.
    free = dataclasses.replace(GPU, matrix_flops=1e30)
    moved = HALF * (4 * 1024 * keys + 1024 * 256 + keys * 256 + keys * 64 + 1024 * 64)
    assert attention_seconds(free, WHOLE, TI_512, keys) == pytest.approx(4 * (moved / 0.75e11 + 9e-6))
    # With free traffic, the fused form is 1.6 times the arithmetic.
    fast = dataclasses.replace(GPU, bandwidth=1e30)
    fused = AttentionForm(CrossAttention.FUSED)
    arithmetic = [attention_seconds(fast, form, TI_512, keys) for form in (WHOLE, fused)]
    assert arithmetic[1] / arithmetic[0] == pytest.approx(1.6, rel=0.05)
    # A cache that holds the scores saves their traffic; many multiprocessors are idle in the fused form.
    assert attention_seconds(dataclasses.replace(GPU, cache=64 << 20), WHOLE, TI_512, keys) < whole
    wide = dataclasses.replace(GPU, multiprocessors=128)
    assert attention_seconds(wide, fused, TI_512, keys) > 5 * attention_seconds(GPU, fused, TI_512, keys)


@pytest.mark.parametrize(
    ("target", "model", "expected"),
    [
        (None, TI_2, WHOLE),
        ("this-machine", TI_2, WHOLE),
        ("a100", TI_512, WHOLE),
        ("a100", TI_2, AttentionForm(CrossAttention.BLOCKS, 4)),
        ("jetson-orin", TI_512, WHOLE),
        ("jetson-orin", TI_2, WHOLE),
        ("jetson-thor", TI_512, AttentionForm(CrossAttention.BLOCKS, 2)),
    ],
)
def test_the_form_of_a_target(target: str | None, model: object, expected: AttentionForm) -> None:
    assert attention_for(None, target, model, GraphSizes()) == expected  # type: ignore[arg-type]


def test_a_form_that_is_asked_for_is_taken() -> None:
    assert attention_for("fused", "a100", TI_512, GraphSizes()) == AttentionForm(CrossAttention.FUSED)
    blocks = attention_for("blocks", None, TI_512, GraphSizes())
    assert blocks.cross_attention is CrossAttention.BLOCKS
    assert TI_512.tokens % blocks.query_blocks == 0
    with pytest.raises(InputError, match="no target is named 'a200'"):
        attention_for(None, "a200", TI_512, GraphSizes())
    with pytest.raises(InputError, match="`cross_attention=flash` is not known"):
        attention_for("flash", None, TI_512, GraphSizes())
    with pytest.raises(InputError, match="do not divide into blocks"):
        attention_for("blocks", None, TI_512.replace(image_size=96), GraphSizes())


def test_nothing_is_chosen_for_less_than_the_margin() -> None:
    for target, gpus in GPUS.items():
        for spec in (TI_512, TI_2, NANO):
            keys, chosen = GraphSizes().memory_keys(spec), attention_for(None, target, spec, GraphSizes())
            for gpu in gpus:
                gain = attention_seconds(gpu, WHOLE, spec, keys) / attention_seconds(gpu, chosen, spec, keys)
                assert chosen == WHOLE or gain >= MARGIN
    assert WHOLE in attention_forms(TI_512)


def test_the_documentation_shows_what_the_roofline_gives() -> None:
    text = (Path(__file__).parents[1] / "docs" / "tensorrt.md").read_text(encoding="utf-8")
    sizes, fused = GraphSizes(), AttentionForm(CrossAttention.FUSED)
    for gpu in (gpu for gpus in GPUS.values() for gpu in gpus):
        for spec in (TI_512, TI_2):
            seconds = partial(attention_seconds, gpu, spec=spec, keys=sizes.memory_keys(spec))
            blocks = min((form for form in attention_forms(spec) if form.query_blocks > 1), key=seconds)
            whole, split, one = (f"{1e3 * seconds(form):.2f}" for form in (WHOLE, blocks, fused))
            row = f"| {gpu.name} | `{spec.name}` | {whole} | {split} ({blocks.query_blocks}) | {one} |"
            assert row in text, row
