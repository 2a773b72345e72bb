"""What a bundle of the small model can do: drawn clips it never saw, and real clips in DAVIS layout.

    etam-edge export --output out/nano/bundle
    python examples/train_nano/evaluate.py out/nano/bundle --davis DAVIS_FOLDER

Prints tables in Markdown. J leaves out the first frame and the last, as DAVIS does; "copy" answers every frame with the
first mask.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from clips import make_clip
from PIL import Image
from rich.progress import track as progress
from sources import Sources

import etam_edge
from etam_edge import Prompt, Tracker
from etam_edge.evaluation.metrics import boundary_measure, evaluated_mean, region_similarity
from etam_edge.media import crossing

CLIPS, LENGTH, PACE = 50, 16, 0.8
FIRST_SEED = 10_000_000_000
"""Far from every seed of the training."""


@dataclass
class Score:
    similarity: list[float] = field(default_factory=list)
    copied: list[float] = field(default_factory=list)
    sight: list[bool] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--davis", type=Path, help="folder with JPEGImages/480p and Annotations/480p")
    parser.add_argument("--cache", type=Path, default=Path("out/nano/cache"), help="where drawn glyphs are kept")
    parser.add_argument("--clips", type=int, default=CLIPS)
    options = parser.parse_args()
    tracker = Tracker.load(options.bundle)
    print("| drawn clips | mean J | copy | in sight or not, right |\n| --- | --- | --- | --- |")
    for kind in ("mask", "click"):
        score = drawn(tracker, kind, options.clips, Sources(held_out=True, cache=options.cache))
        similarity, copied, sight = (np.mean(v) for v in (score.similarity, score.copied, score.sight))
        print(f"| {kind} | {similarity:.3f} | {copied:.3f} | {100 * sight:.1f} % |", flush=True)
    print(f"\nOne object: {speed(tracker):.1f} ms a frame, median.")
    if options.davis:
        print("\n| DAVIS clip, first mask given | J | F | copy J |\n| --- | --- | --- | --- |")
        rows = []
        for folder in sorted((options.davis / "Annotations" / "480p").iterdir()):
            rows.append(real(tracker, options.davis, folder.name))
            print(f"| {folder.name} | " + " | ".join(f"{value:.3f}" for value in rows[-1]) + " |", flush=True)
        print("| mean | " + " | ".join(f"{value:.3f}" for value in np.mean(rows, 0)) + " |")


def drawn(tracker: Tracker, kind: str, count: int, sources: Sources) -> Score:
    """Held-out clips, every object with a mask or one click inside it in the first frame."""
    score = Score()
    side = tracker.spec.image_size
    for index in progress(range(count), description=kind):
        clip = make_clip(sources, FIRST_SEED + index, side, LENGTH, targets=2, pace=PACE)
        truth = clip.masks.astype(bool)
        answers = follow(tracker, clip.frames, [_prompt(kind, mask) for mask in truth[0]])
        for t, (masks, in_sight) in enumerate(answers[1:-1], 1):
            for number in range(2):
                visible = bool(truth[t, number].any())
                score.sight.append(bool(in_sight[number]) == visible)
                if visible:
                    score.similarity.append(region_similarity(masks[number], truth[t, number]))
                    score.copied.append(region_similarity(truth[0, number], truth[t, number]))
    return score


def real(tracker: Tracker, root: Path, name: str) -> tuple[float, float, float]:
    """J, F and the J of copying the first mask."""
    truth = [np.asarray(Image.open(file)) > 0 for file in _files(root / "Annotations" / "480p" / name)]
    images = (np.asarray(Image.open(file).convert("RGB")) for file in _files(root / "JPEGImages" / "480p" / name))
    masks = [masks[0] for masks, _ in follow(tracker, images, [Prompt(mask=truth[0])])]
    return (
        evaluated_mean([region_similarity(*pair) for pair in zip(masks, truth, strict=True)]),
        evaluated_mean([boundary_measure(*pair) for pair in zip(masks, truth, strict=True)]),
        evaluated_mean([region_similarity(truth[0], mask) for mask in truth]),
    )


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
    """For every frame the masks, bool (K, H, W), and which objects are visible, bool (K,)."""
    session = tracker.start_session(max_objects=len(prompts))
    return [(result.masks, result.visible) for result in etam_edge.follow(session, frames, dict(enumerate(prompts, 1)))]


def _prompt(kind: str, mask: np.ndarray) -> Prompt:
    if kind == "mask":
        return Prompt(mask=mask)
    import cv2

    # The pixel that is farthest from the object's edge.
    inside = cv2.distanceTransform(np.pad(mask.astype(np.uint8), 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
    y, x = np.unravel_index(inside.argmax(), mask.shape)
    return Prompt(points=[(float(x), float(y))], labels=[1])


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix in (".jpg", ".png"))


if __name__ == "__main__":
    main()
