"""What one would use instead: SAM 2.1 and EdgeTAM from Hugging Face's transformers. Time only: weights are random.

Needs `pip install transformers`, in an environment without torchvision: where a torchvision built for another torch is
installed, transformers' video models do not import.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from benchmarks.candidates import candidates
from benchmarks.interleave import Runner, interleave
from benchmarks.runners import OBJECT
from benchmarks.scene import Scene, make_scene
from benchmarks.settings import Part, Settings, counted
from benchmarks.tables import ratio_cells, table
from etam_edge.errors import RuntimeUnavailableError
from etam_edge.recipe import FP32

INSTALL = "pip install transformers"
SIDE = 1024
"""Image size of all of these models, in pixels."""
MODELS = ("efficienttam_ti", "efficienttam_ti_1", "efficienttam_ti_2")
"""This project's models of the same image size, in fp32."""
BASE_PLUS = {
    "hidden_size": 112,
    "embed_dim_per_stage": [112, 224, 448, 896],
    "num_attention_heads": 2,
    "num_attention_heads_per_stage": [2, 4, 8, 16],
    "blocks_per_stage": [2, 3, 16, 3],
    "global_attention_blocks": [12, 16, 20],
    "window_positional_embedding_background_size": [14, 14],
}
"""SAM 2.1 base-plus' image encoder, as its published configuration has it; the library's defaults are those of tiny."""


def run(settings: Settings) -> Part:
    """Whole frames, one object, memory full, interleaved with this project's fp32 bundles of the same image size.

    Raises:
        RuntimeUnavailableError: transformers is not installed or does not import.
        EtamError: a bundle cannot be made or used.
    """
    scene = make_scene(SIDE, settings.output / "made" / "alternatives" / "frames")
    runners: dict[str, Runner] = {
        name: AlternativeRunner(make(), scene) for name, make in alternatives().items() if _wanted(settings, name)
    }
    for name in (name for name in MODELS if _wanted(settings, name)):
        [make] = candidates(name, _only_fp32(settings), [FP32]).values()
        runners[name] = make()
    with counted("alternatives", len(runners) * (settings.warm_up + settings.frames)) as advance:
        entries = interleave(runners, settings.warm_up, settings.frames, step=advance)
    rows = [
        [entry.name, f"{entry.whole.p50:.0f}", f"{entry.whole.minimum:.0f}"]
        + (["", ""] if entry.ratio is None else ratio_cells(entry.ratio))
        for entry in entries
    ]
    title = f"whole frames at {SIDE} px, n = {settings.frames}; ratios are times of {entries[0].name} over the row's"
    header = ["", "median, ms", "minimum, ms", "ratio (95 %)", "of minima"]
    results = {"frames": [{**asdict(entry), "agreement": None} for entry in entries]}
    return Part("What one would use instead", results, [table(title, header, rows)])


def alternatives() -> Mapping[str, Callable[[], Any]]:
    """By name: what makes the model, with random weights, in evaluation mode.

    Raises:
        RuntimeUnavailableError: transformers is not installed or does not import.
    """
    try:
        from transformers import EdgeTamVideoConfig, EdgeTamVideoModel, Sam2VideoConfig, Sam2VideoModel
    except Exception as error:  # A torchvision of another torch fails with RuntimeError.
        raise RuntimeUnavailableError(
            f"transformers' video models cannot be imported ({str(error).splitlines()[0]}); install them with "
            f"`{INSTALL}`, in an environment without torchvision"
        ) from error

    def base_plus() -> Any:
        config = Sam2VideoConfig()
        for name, value in BASE_PLUS.items():
            setattr(config.vision_config.backbone_config, name, value)
        config.vision_config.backbone_channel_list = BASE_PLUS["embed_dim_per_stage"][::-1]
        return Sam2VideoModel(config).eval()

    return {
        "SAM 2.1 tiny": lambda: Sam2VideoModel(Sam2VideoConfig()).eval(),
        "SAM 2.1 base-plus": base_plus,
        # Its RepViT backbone comes from timm, which needs torchvision.
        "EdgeTAM, with the image encoder of SAM 2.1 tiny in place of RepViT": lambda: EdgeTamVideoModel(
            EdgeTamVideoConfig()
        ).eval(),
    }


class AlternativeRunner:
    """A video model of transformers that takes the scene as a stream, one object, prompted with one click.

    Like the reference it begins with a normalised float32 frame, and ends with the mask, bool (S, S).

    Args:
        model: of `alternatives`.
        scene: frames at the model's size.

    Attributes:
        mask: of the frame just tracked.
    """

    def __init__(self, model: Any, scene: Scene) -> None:
        import importlib

        import torch

        self._model = model
        self._scene = scene
        module = importlib.import_module(type(model).__module__)
        session_type = getattr(module, f"{type(model).__name__.removesuffix('Model')}InferenceSession")
        self._session = session_type(video_height=scene.size, video_width=scene.size, dtype=torch.float32)
        self._frames = [
            torch.from_numpy(frame.copy()).permute(2, 0, 1)[None].float().div(255).sub(0.45).div(0.225)
            for frame in scene.frames
        ]
        self.mask: np.ndarray | None = None
        self._logits: np.ndarray | None = None

    def step(self, index: int) -> None:
        import torch

        session = self._session
        if index == 0:
            number = session.obj_id_to_idx(OBJECT)
            points = torch.tensor([[[list(self._scene.click)]]])
            inputs = {"point_coords": points, "point_labels": torch.ones(points.shape[:-1], dtype=torch.int32)}
            session.add_point_inputs(number, 0, inputs)
            session.obj_with_new_inputs = [OBJECT]
        frame = self._frames[index % len(self._frames)][0]
        with torch.inference_mode():
            low = self._model(inference_session=session, frame=frame).pred_masks
            high = torch.nn.functional.interpolate(low.float(), size=(self._scene.size,) * 2, mode="bilinear")
        self._logits = low[0, 0].float().numpy()
        self.mask = (high[0, 0] > 0).numpy()

    def logits(self) -> np.ndarray:
        if self._logits is None:
            raise RuntimeError("a frame comes first")
        return self._logits


def _wanted(settings: Settings, name: str) -> bool:
    return not settings.candidates or name in settings.candidates


def _only_fp32(settings: Settings) -> Settings:
    return replace(settings, candidates=(), also={})
