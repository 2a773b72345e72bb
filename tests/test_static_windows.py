"""Blocks of the graph against the model's own, which pads windows with zeros."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from conftest import SmallBundleMaker

from etam_edge import Prompt, Tracker
from etam_edge.bundle import Bundle
from etam_edge.spec import Pooling
from etam_edge_testing.small import SIZES, clip_frame, export_small

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from etam_edge.exporters.graphs.static_windows import Span, StaticBlock, spans  # noqa: E402
from etam_edge.model.image_encoder import Block  # noqa: E402


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("padded", [False, True], ids=["cut", "padded"])
@pytest.mark.parametrize(
    ("height", "width", "window"),
    [(8, 8, 5), (8, 8, 4), (8, 8, 8), (8, 8, 11), (9, 7, 4), (8, 8, None)],
    ids=["not whole", "whole", "one", "larger than the grid", "oblong", "global"],
)
def test_a_block_is_the_models_block(height: int, width: int, window: int | None, padded: bool, batch: int) -> None:
    torch.manual_seed(1)
    block = Block(24, 3, 2, window).eval()
    x = torch.randn(batch, height, width, 24)
    with torch.inference_mode():
        torch.testing.assert_close(StaticBlock(block, padded)(x), block(x), rtol=1e-4, atol=1e-5)


def test_the_weight_of_padding_is_needed() -> None:
    """A padded key that counts once instead of n times changes the output: the test above can fail."""
    torch.manual_seed(1)
    block = Block(24, 3, 2, 5).eval()
    x = torch.randn(1, 8, 8, 24)
    static = StaticBlock(block)
    with torch.inference_mode(), pytest.MonkeyPatch.context() as patch:
        patch.setattr("math.log", lambda count: 0.0)
        assert (static(x) - block(x)).abs().max() > 1e-3


def test_windows_cover_a_side_once() -> None:
    assert spans(32, 14) == [Span(0, 2, 14), Span(28, 1, 4)]
    assert spans(16, 8) == [Span(0, 2, 8)]
    assert spans(8, 14) == [Span(0, 1, 8)]


@pytest.mark.parametrize("padded", [False, True], ids=["cut", "padded"])
@pytest.mark.parametrize(("side", "projected"), [(32, 1024), (64, 4096)])
def test_only_real_tokens_are_projected(side: int, projected: int, padded: bool) -> None:
    block = StaticBlock(Block(12, 3, 2, 14).eval(), padded)
    seen = []
    for part in (block.attn.query, block.attn.key, block.attn.value, block.attn.proj):
        part.register_forward_hook(lambda module, inputs, output: seen.append(output.numel() // 12))
    with torch.inference_mode():
        block(torch.randn(1, side, side, 12))
    assert seen == [projected] * 4


def test_both_forms_are_exported_and_track_alike(small_bundle: SmallBundleMaker, tmp_path: Path) -> None:
    cut = Bundle.load(small_bundle(Pooling.NONE))
    padded = Bundle.load(export_small(Pooling.NONE, tmp_path / "padded", replace(SIZES, padded_windows=True)))
    assert padded.manifest.sizes.padded_windows
    assert not cut.manifest.sizes.padded_windows
    softmax = {
        bundle.path: [node.op_type for node in onnx.load(bundle.graph_path("encode")).graph.node].count("Softmax")
        for bundle in (cut, padded)
    }
    assert (softmax[cut.path], softmax[padded.path]) == (2 * 4 + 1, 3), "a window of 5 cuts 8 tokens to 5 and 3"
    sessions = [Tracker.load(bundle.path).start_session() for bundle in (cut, padded)]
    for index in range(4):
        prompts = {1: Prompt(points=[(60, 70)], labels=[1])} if index == 0 else None
        one, other = (session.track(clip_frame(index), prompts) for session in sessions)
        torch.testing.assert_close(torch.tensor(one.mask_logits), torch.tensor(other.mask_logits), rtol=1e-4, atol=1e-3)
