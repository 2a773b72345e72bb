"""What a bundle of the small model can do: clips it never saw, drawn and real, and the packaged ones.

    etam-edge export --output out/nano/bundle
    python examples/train_nano/evaluate.py out/nano/bundle --davis DAVIS_FOLDER

Prints tables in Markdown. J leaves out the first frame and the last, as DAVIS does; "copy" answers every frame with the
first mask. Photographs are measured by `held_out.py`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from clips import make_clip
from photos import deepest
from PIL import Image
from rich.progress import track as progress
from sources import Sources

import etam_edge
from etam_edge import Prompt, Tracker
from etam_edge.evaluation.metrics import boundary_measure, evaluated_mean, region_similarity
from etam_edge.media import chair_masks, crossing

CLIPS, LENGTH, PACE = 50, 16, 0.8
FIRST_SEED = 20_000_000_000
"""Far from every seed of the training, and from those that its progress was watched by."""
CHAIR = Path(__file__).resolve().parents[2] / "tests" / "data" / "chair" / "JPEGImages"
LEAST_VISIBLE = 50
"""Pixels from which an object of a packaged clip counts as visible."""


@dataclass
class Score:
    similarity: list[float] = field(default_factory=list)
    copied: list[float] = field(default_factory=list)
    visible: list[bool] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--davis", type=Path, help="folder with JPEGImages/480p and Annotations/480p")
    parser.add_argument("--cache", type=Path, default=Path("out/nano/cache"), help="where drawn glyphs are kept")
    parser.add_argument("--clips", type=int, default=CLIPS)
    options = parser.parse_args()
    print(tables(measure(Tracker.load(options.bundle), options.cache, options.clips, options.davis)))


def measure(tracker: Tracker, cache: Path, clips: int = CLIPS, davis: Path | None = None) -> dict[str, Any]:
    """All figures, by name."""
    sources = Sources(held_out=True, cache=cache)
    figures: dict[str, Any] = {"clips": clips}
    for kind in ("mask", "click"):
        score = drawn(tracker, kind, clips, sources)
        parts = (score.similarity, score.copied, score.visible)
        figures[f"drawn_{kind}"] = [round(float(np.mean(part)), 4) for part in parts]
    figures["packaged"] = {name: round(value, 4) for name, value in similarities(tracker).items()}
    figures["hidden"] = hidden(tracker)
    figures["milliseconds"] = round(speed(tracker), 1)
    if davis:
        names = sorted(folder.name for folder in (davis / "Annotations" / "480p").iterdir())
        figures["davis"] = {name: real(tracker, davis, name) for name in progress(names, description="DAVIS")}
    return figures


def tables(figures: dict[str, Any]) -> str:
    """The figures in Markdown."""
    lines = ["| drawn clips | mean J | copy | visible or not, right |", "| --- | --- | --- | --- |"]
    for kind in ("mask", "click"):
        similarity, copied, visible = figures[f"drawn_{kind}"]
        lines.append(f"| {kind} | {similarity:.3f} | {copied:.3f} | {100 * visible:.1f} % |")
    lines += ["", "| packaged clips, first mask given | mean J |", "| --- | --- |"]
    lines += [f"| {name} | {value:.3f} |" for name, value in figures["packaged"].items()]
    hid = figures["hidden"]
    lines += [
        "",
        f"The box of `crossing` is hidden on {hid['frames']} frames; the score says so on {hid['said']} of them, its "
        f"mask covers at most {100 * hid['jump']:.0f} % of the ball then. When it is visible again, its mean J is "
        f"{hid['after']:.3f}.",
    ]
    if "davis" in figures:
        lines += [
            "",
            "| DAVIS clip | J, first mask given | F | J, one click | copy J |",
            "| --- | --- | --- | --- | --- |",
        ]
        rows = figures["davis"]
        for name, row in [*rows.items(), ("mean", np.mean(list(rows.values()), 0))]:
            lines.append(f"| {name} | " + " | ".join(f"{value:.3f}" for value in row) + " |")
    return "\n".join(lines)


def drawn(tracker: Tracker, kind: str, count: int, sources: Sources) -> Score:
    """Held-out clips, every object with a mask or one click inside it in the first frame."""
    score = Score()
    side = tracker.spec.image_size
    for index in progress(range(count), description=f"drawn clips, {kind}"):
        clip = make_clip(sources, FIRST_SEED + index, side, LENGTH, targets=2, pace=PACE)
        truth = clip.masks.astype(bool)
        answers = follow(tracker, clip.frames, [prompt_of(kind, mask) for mask in truth[0]])
        for t, (masks, said) in enumerate(answers[1:-1], 1):
            for number in range(2):
                visible = bool(truth[t, number].any())
                score.visible.append(bool(said[number]) == visible)
                if visible:
                    score.similarity.append(region_similarity(masks[number], truth[t, number]))
                    score.copied.append(region_similarity(truth[0, number], truth[t, number]))
    return score


def similarities(tracker: Tracker) -> dict[str, float]:
    """Mean J by object where it is visible, on the packaged drawn clip and on every second frame of the real one."""
    images, truth = crossing()
    frames = [np.asarray(Image.open(file)) for file in sorted(CHAIR.iterdir())][::2]
    found = {}
    for names, clip, masks in (
        (("ball", "box"), images, truth),
        (("reflection",), frames, chair_masks()[::2, None]),
    ):
        values: dict[str, list[float]] = {name: [] for name in names}
        answers = follow(tracker, clip, [Prompt(mask=mask) for mask in masks[0]])
        for (answer, _), wanted in list(zip(answers, masks, strict=True))[1:]:
            for name, mask, true_mask in zip(names, answer, wanted, strict=True):
                if true_mask.sum() > LEAST_VISIBLE:
                    values[name].append(float(region_similarity(mask, true_mask)))
        found |= {name: float(np.mean(each)) for name, each in values.items()}
    return found


def hidden(tracker: Tracker) -> dict[str, float]:
    """What is said of the box in `crossing` while the ball hides it, and how well it is found again."""
    images, truth = crossing()
    answers = follow(tracker, images, [Prompt(mask=mask) for mask in truth[0]])
    gone = [t for t, masks in enumerate(truth) if not masks[1].any()]
    after = [t for t, masks in enumerate(truth) if t > gone[-1] and masks[1].sum() > LEAST_VISIBLE]
    covered = [(answers[t][0][1] & truth[t, 0]).sum() / truth[t, 0].sum() for t in gone]
    return {
        "frames": len(gone),
        "said": sum(not answers[t][1][1] for t in gone),
        "jump": round(float(max(covered)), 3),
        "after": round(float(np.mean([region_similarity(answers[t][0][1], truth[t, 1]) for t in after])), 4),
    }


def real(tracker: Tracker, root: Path, name: str) -> list[float]:
    """J and F from the first mask, J from one click, and the J of copying the first mask."""
    truth = [np.asarray(Image.open(file)) > 0 for file in _files(root / "Annotations" / "480p" / name)]
    images = [np.asarray(Image.open(file).convert("RGB")) for file in _files(root / "JPEGImages" / "480p" / name)]
    masks = [masks[0] for masks, _ in follow(tracker, images, [Prompt(mask=truth[0])])]
    clicked = [masks[0] for masks, _ in follow(tracker, images, [prompt_of("click", truth[0])])]
    means = (
        evaluated_mean([region_similarity(*pair) for pair in zip(masks, truth, strict=True)]),
        evaluated_mean([boundary_measure(*pair) for pair in zip(masks, truth, strict=True)]),
        evaluated_mean([region_similarity(*pair) for pair in zip(clicked, truth, strict=True)]),
        evaluated_mean([region_similarity(truth[0], mask) for mask in truth]),
    )
    return [round(float(mean), 4) for mean in means]


def speed(tracker: Tracker, frames: int = 200) -> float:
    """Median milliseconds of a frame with one object and its memory full."""
    images, masks = crossing()
    session = tracker.start_session()
    session.track(images[0], prompts={1: Prompt(mask=masks[0, 0])})
    times = []
    for index in range(1, frames):
        begin = time.perf_counter()
        session.track(images[index % len(images)])
        times.append(1e3 * (time.perf_counter() - begin))
    return float(np.median(times[20:]))


def follow(
    tracker: Tracker, frames: Iterable[np.ndarray], prompts: list[Prompt]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """For every frame the masks, bool (K, H, W), and which objects are said to be visible, bool (K,)."""
    session = tracker.start_session(max_objects=len(prompts))
    return [(result.masks, result.visible) for result in etam_edge.follow(session, frames, dict(enumerate(prompts, 1)))]


def prompt_of(kind: str, mask: np.ndarray) -> Prompt:
    """The mask itself, or a click on the pixel that is farthest from the object's edge."""
    if kind == "mask":
        return Prompt(mask=mask)
    x, y = deepest(mask)
    return Prompt(points=[(float(x), float(y))], labels=[1])


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix in (".jpg", ".png"))


if __name__ == "__main__":
    main()
