"""Track one object through a video: print where it is, and write an overlay video."""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2

import etam_edge
from etam_edge.media import CHAIR_VIDEO

CHAIR_BOX = (50.0, 45.0, 238.0, 205.0)
"""Back and seat of the chair in the first frame of the clip in the package."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, default=Path("bundles/etam_nano-fp32"))
    parser.add_argument("--video", type=Path, default=CHAIR_VIDEO)
    parser.add_argument("--box", type=parse_box, default=CHAIR_BOX, help="X0,Y0,X1,Y1 in pixels of the first frame")
    parser.add_argument("--output", type=Path, default=Path("chair_tracked.mp4"))
    parser.add_argument("--max-frames", type=int, default=None)
    options = parser.parse_args()

    video = cv2.VideoCapture(str(options.video))
    writer = None
    prompts = {1: etam_edge.Prompt(box=options.box)}  # on the first frame only; later ones are tracked from memory
    with etam_edge.Tracker.load(options.bundle) as tracker, tracker.start_session(max_objects=1) as session:
        while options.max_frames is None or session.frame_index + 1 < options.max_frames:
            read, image = video.read()
            if not read:
                break
            frame = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
            result = session.track(frame, prompts=prompts)
            prompts = None

            if result.frame_index % 15 == 0:
                visible = "visible" if result[1].visible else "not visible"
                print(f"frame {result.frame_index}: {visible}, box {result[1].box.astype(int).tolist()}")

            if writer is None:
                rate = video.get(cv2.CAP_PROP_FPS) or 30.0
                size = (frame.shape[1], frame.shape[0])
                writer = cv2.VideoWriter(str(options.output), cv2.VideoWriter.fourcc(*"mp4v"), rate, size)
            picture = etam_edge.overlay(frame, result)
            writer.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        runtime, frames = tracker.runtime, session.frame_index + 1
    video.release()
    if writer is None:
        raise SystemExit(f"{options.video} has no frame that OpenCV can read")
    writer.release()
    print(f"{frames} frames with {runtime}: {options.output}")


def parse_box(text: str) -> tuple[float, ...]:
    corners = tuple(float(part) for part in text.split(","))
    if len(corners) != 4:
        raise argparse.ArgumentTypeError(f"{text} is not X0,Y0,X1,Y1")
    return corners


if __name__ == "__main__":
    main()
