"""Goldens: outputs of the reference implementation, and the tolerances of a comparison with them.

`tests/data/parity/README.md` says how the goldens were computed.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image

PARITY = Path(__file__).resolve().parent.parent / "tests" / "data" / "parity"
TOLERANCE = {"mask_logits": 2e-3, "obj_ptr": 1e-3, "object_score": 1e-3, "memory": 5e-3}
MASK_BITS_ALLOWED = 8
"""Number of pixels of a low-resolution mask that may differ: their logits are zero to within rounding errors."""
SCENARIOS: dict[str, list[dict[str, Any]]] = json.loads((PARITY / "scenarios.json").read_text())


@lru_cache(maxsize=1)
def seeded_weights() -> ModuleType:
    spec = importlib.util.spec_from_file_location("seeded_weights", PARITY / "seeded_weights.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def seeded_state_dict(variant: str, seed: int, form: str = "") -> dict[str, np.ndarray]:
    """Return deterministic weights of a variant, by tensor name.

    Args:
        variant: name of an official variant.
        seed: of the random weights.
        form: "", "occluded" (object scores are lowered, so that objects are not visible on some frames) or "sharp"
            (queries of the cross-attention to memory are enlarged, so that attention is sharper).
    """
    size = "s" if variant.startswith("efficienttam_s") else "ti"
    manifest = json.loads((PARITY / f"manifest_efficienttam_{size}.json").read_text())
    weights = seeded_weights().seeded_state_dict(manifest, seed)
    for name in weights:
        if form == "sharp" and ".cross_attn_image.q_proj." in name:
            weights[name] = weights[name] * np.float32(6)
        if form == "occluded" and name == "sam_mask_decoder.pred_obj_score_head.layers.2.bias":
            weights[name] = weights[name] - np.float32(3.6)
    return weights


@dataclass(frozen=True)
class Golden:
    """A file of reference outputs, named VARIANT.seedSEED.SCENARIO[.FORM].npz."""

    path: Path
    variant: str
    seed: int
    scenario: str
    form: str

    @classmethod
    def parse(cls, path: Path) -> Golden:
        variant, seed, scenario, *form = path.stem.split(".")
        return cls(path, variant, int(seed.removeprefix("seed")), scenario, form[0] if form else "")

    @property
    def weights_id(self) -> tuple[str, int, str]:
        """Arguments of `seeded_state_dict`."""
        return self.variant, self.seed, self.form

    @property
    def id(self) -> str:
        return self.path.stem


GOLDENS = [Golden.parse(path) for path in sorted((PARITY / "goldens").glob("*.npz"))]


def frame(index: int, size: int) -> np.ndarray:
    """Return a stored frame of 256 x 256 pixels with its pixels repeated, so that nothing is interpolated.

    Returns:
        uint8 (size, size, 3) RGB.
    """
    image = np.asarray(Image.open(PARITY / "frames" / f"{index:03d}.png").convert("RGB"))
    return image.repeat(size // 256, 0).repeat(size // 256, 1)


@dataclass(frozen=True)
class Step:
    """One step of a scenario.

    Attributes:
        verb: "track" or "refine".
        frame: index of the frame.
        prompts: arguments of `Prompt` by object id, in pixels.
        becomes_conditioning: of a correction, whether the frame becomes a conditioning frame.
    """

    verb: str
    frame: int
    prompts: dict[int, dict[str, Any]]
    becomes_conditioning: bool | None


def steps(scenario: str, size: int) -> Iterator[Step]:
    """Yield the steps of a scenario, with prompts for frames of `size` x `size` pixels."""

    def pixels(prompt: dict[str, Any]) -> dict[str, Any]:
        scaled: dict[str, Any] = {}
        if "points" in prompt:
            scaled["points"] = [(x * size, y * size) for x, y in prompt["points"]]
            scaled["labels"] = prompt["labels"]
        if "box" in prompt:
            scaled["box"] = tuple(value * size for value in prompt["box"])
        if "mask_rectangle" in prompt:
            x0, y0, x1, y1 = (int(value * size) for value in prompt["mask_rectangle"])
            scaled["mask"] = np.zeros((size, size), dtype=bool)
            scaled["mask"][y0:y1, x0:x1] = True
        return scaled

    for step in SCENARIOS[scenario]:
        prompts = step.get("prompts", {})
        if step["do"] == "refine":
            prompts = {str(step["object"]): step}
        yield Step(
            verb=step["do"],
            frame=step["frame"],
            prompts={int(object_id): pixels(prompt) for object_id, prompt in prompts.items()},
            becomes_conditioning=step.get("becomes_conditioning"),
        )


@dataclass
class ObjectOutputs:
    """Outputs of an implementation for one object on one frame.

    Attributes:
        mask_logits: float32 (S/4, S/4).
        pointer: float32 (256,), the object pointer.
        score: the object score, a logit.
        memory: float32 (64, S/16, S/16), what the memory encoder returned; None if it is not known.
    """

    mask_logits: np.ndarray
    pointer: np.ndarray
    score: float
    memory: np.ndarray | None = None


class Comparison:
    """Largest differences from a golden, and a sentence for each difference that is out of tolerance."""

    def __init__(self, golden: Golden) -> None:
        self.golden = golden
        self.largest: dict[str, float] = {}
        self.mask_bits = 0
        self.failures: list[str] = []

    def check(self, outputs: dict[tuple[int, int], ObjectOutputs]) -> None:
        """Compare outputs by (object id, frame index) with every entry of the golden."""
        with np.load(self.golden.path) as arrays:
            expected = {key: arrays[key] for key in arrays.files}
        places = sorted({key.rsplit("/", 1)[0] for key in expected})
        found = {f"obj{object_id}/frame{frame_index:03d}" for object_id, frame_index in outputs}
        if found != set(places):
            self.failures.append(f"outputs for {sorted(found)}, the golden has {places}")
            return
        for (object_id, frame_index), output in outputs.items():
            place = f"obj{object_id}/frame{frame_index:03d}"
            logits = output.mask_logits
            self._compare(place, "mask_logits", logits[::5, ::5], expected[f"{place}/mask_logits_every5"])
            self._compare(place, "obj_ptr", output.pointer, expected[f"{place}/obj_ptr"])
            self._compare(place, "object_score", np.asarray(output.score), expected[f"{place}/object_score"])
            if output.memory is not None:
                self._compare(place, "memory", output.memory[:, ::7, ::7], expected[f"{place}/memory_every7"])
            bits = int(np.sum(np.unpackbits(np.packbits(logits > 0) ^ expected[f"{place}/mask_bits"])))
            self.mask_bits = max(self.mask_bits, bits)
            if bits > MASK_BITS_ALLOWED:
                self.failures.append(f"{place}: {bits} mask bits differ")

    def _compare(self, place: str, name: str, actual: np.ndarray, expected: np.ndarray) -> None:
        if actual.shape != expected.shape:
            self.failures.append(f"{place}: {name} has shape {actual.shape}, expected {expected.shape}")
            return
        difference = float(np.max(np.abs(actual.astype(np.float64) - expected)))
        self.largest[name] = max(self.largest.get(name, 0.0), difference)
        if not difference <= TOLERANCE[name]:
            self.failures.append(f"{place}: {name} differs by {difference:.2g}, allowed {TOLERANCE[name]}")

    def row(self) -> str:
        """The largest differences in one line."""
        parts = [f"{name} {value:.1e}" for name, value in self.largest.items()]
        return f"{self.golden.id}: {', '.join(parts)}, mask bits {self.mask_bits}"
