"""The prompts of the image goldens, as arguments of the reference's `predict`."""

from __future__ import annotations

from typing import Any


def prompts(shape: tuple[int, int]) -> dict[str, dict[str, Any]]:
    """Prompts by name for an image of (H, W) pixels, in the order in which they are given.

    `refines` names an earlier prompt, whose best low-resolution logits are the `mask_input`.
    """
    height, width = shape

    def at(x: float, y: float) -> list[float]:
        return [x * width, y * height]

    def box(x0: float, y0: float, x1: float, y1: float) -> list[float]:
        return [*at(x0, y0), *at(x1, y1)]

    click = {"point_coords": [at(0.4, 0.5)], "point_labels": [1]}
    return {
        "click": {**click, "multimask": True},
        "click_single": {**click, "multimask": False},
        "points": {
            "point_coords": [at(0.4, 0.5), at(0.6, 0.55), at(0.1, 0.1)],
            "point_labels": [1, 1, 0],
            "multimask": False,
        },
        "box": {"box": box(0.2, 0.3, 0.7, 0.8), "multimask": False},
        "box_multimask": {"box": box(0.2, 0.3, 0.7, 0.8), "multimask": True},
        "box_and_point": {
            "box": box(0.2, 0.3, 0.7, 0.8),
            "point_coords": [at(0.3, 0.7)],
            "point_labels": [0],
            "multimask": True,
        },
        "boxes": {
            "box": [box(0.2, 0.3, 0.7, 0.8), box(0.05, 0.1, 0.4, 0.5), box(0.5, 0.2, 0.9, 0.6)],
            "multimask": False,
        },
        "refined": {**click, "refines": "click", "multimask": False},
        "logits_alone": {"refines": "box", "multimask": True},
    }
