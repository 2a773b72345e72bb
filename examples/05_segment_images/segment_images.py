"""Everything in one image, then the object under a click, refined with a second click."""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2

import etam_edge
from etam_edge.media import CHAIR_VIDEO


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, default=Path("bundles/etam_nano-fp32"))
    parser.add_argument(
        "--image", type=Path, default=None, help="the first frame of the clip in the package by default"
    )
    parser.add_argument("--points-per-side", type=int, default=16)
    parser.add_argument("--output", type=Path, default=Path("everything.png"))
    options = parser.parse_args()

    image = read(options.image)
    with etam_edge.Segmenter.load(options.bundle) as segmenter:
        proposals = segmenter.everything(image, points_per_side=options.points_per_side, max_area=0.6, top_k=20)
        print(f"{len(proposals)} masks with {segmenter.runtime}")
        for proposal in proposals[:5]:
            print(f"  box {proposal.box}, {proposal.area} pixels, predicted IoU {proposal.predicted_iou:.2f}")

        # The image is still set: prompts cost one run of the mask decoder each.
        height, width = image.shape[:2]
        click = etam_edge.Prompt(points=[(width / 2, height / 2)], labels=[1])
        first = segmenter.predict(click)
        print(f"the centre: {len(first.masks)} masks, predicted IoUs {', '.join(f'{iou:.2f}' for iou in first.ious)}")
        corner = etam_edge.Prompt(points=[(width / 2, height / 2), (2, 2)], labels=[1, 0])
        refined = segmenter.predict(corner, multimask=False, mask_input=first.mask_logits[first.best])
        print(f"without the corner: {int(refined.masks[0].sum())} pixels")

    picture = image.copy()
    for number, proposal in enumerate(sorted(proposals, key=lambda one: -one.area), start=1):
        outlines, _ = cv2.findContours(proposal.mask.astype("uint8"), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        colour = tuple(int(value) for value in (37 * number % 256, 91 * number % 256, 173 * number % 256))
        cv2.drawContours(picture, outlines, -1, colour, 2)
    cv2.imwrite(str(options.output), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    print(options.output)


def read(path: Path | None):
    """The image as uint8 (H, W, 3) RGB."""
    if path is not None:
        picture = cv2.imread(str(path))
        found = picture is not None
    else:
        found, picture = cv2.VideoCapture(str(CHAIR_VIDEO)).read()
    if not found:
        raise SystemExit(f"{path or CHAIR_VIDEO} is not an image that OpenCV can read")
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


if __name__ == "__main__":
    main()
