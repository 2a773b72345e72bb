"""Track one object through a video: print where it is, and write an overlay video."""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np

from etam_edge import Prompt, Tracker
from etam_edge.media import CHAIR_VIDEO

CHAIR_BOX = (50.0, 45.0, 238.0, 205.0)
"""Back and seat of the chair in the first frame of the clip in the package."""
COLOUR = np.array([255, 140, 0], dtype=np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, default=Path("bundles/etam_nano-fp32"))
    parser.add_argument("--video", type=Path, default=CHAIR_VIDEO)
    parser.add_argument("--box", type=parse_box, default=CHAIR_BOX, help="X0,Y0,X1,Y1 in pixels of the first frame")
    parser.add_argument("--output", type=Path, default=Path("chair_tracked.mp4"))
    parser.add_argument("--max-frames", type=int, default=None)
    options = parser.parse_args()

    tracker = Tracker.load(options.bundle)
    session = tracker.start_session(max_objects=1)
    video = cv2.VideoCapture(str(options.video))
    writer = None
    prompts = {1: Prompt(box=options.box)}  # on the first frame only; later frames are tracked from memory
    while options.max_frames is None or session.frame_index + 1 < options.max_frames:
        read, image = video.read()
        if not read:
            break
        frame = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        result = session.track(frame, prompts=prompts)
        prompts = None

        mask = result.masks[0]  # bool (H, W), at the size of the frame
        if result.frame_index % 15 == 0:
            visible = result.object_scores[0] > 0
            print(f"frame {result.frame_index}: {'visible' if visible else 'not visible'}, box {bounding_box(mask)}")

        if writer is None:
            rate = video.get(cv2.CAP_PROP_FPS) or 30.0
            size = (frame.shape[1], frame.shape[0])
            writer = cv2.VideoWriter(str(options.output), cv2.VideoWriter.fourcc(*"mp4v"), rate, size)
        frame[mask] = (0.5 * frame[mask] + 0.5 * COLOUR).astype(np.uint8)
        writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    video.release()
    if writer is None:
        raise SystemExit(f"{options.video} has no frame that OpenCV can read")
    writer.release()
    print(f"{session.frame_index + 1} frames with {tracker.runtime}: {options.output}")


def bounding_box(mask: np.ndarray) -> tuple[int, int, int, int] | None:
    """(x0, y0, x1, y1) around a mask, the far corner outside it; None for an empty mask."""
    rows, columns = np.nonzero(mask)
    if not len(rows):
        return None
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def parse_box(text: str) -> tuple[float, ...]:
    corners = tuple(float(part) for part in text.split(","))
    if len(corners) != 4:
        raise argparse.ArgumentTypeError(f"{text} is not X0,Y0,X1,Y1")
    return corners


if __name__ == "__main__":
    main()
