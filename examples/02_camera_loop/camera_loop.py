"""Track one object from a live camera: newest frame first, bad frames survived, state saved on Ctrl-C."""

from __future__ import annotations

import argparse
import signal
import time
from pathlib import Path

import numpy as np
from newest_frame import NewestFrame

from etam_edge import EtamError, Prompt, Session, Tracker

MAX_FAILURES = 30
"""Failed frames in a row after which something is wrong for good."""
REPORT_SECONDS = 5.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, default=Path("bundles/etam_nano-fp32"))
    parser.add_argument("--camera", default="0", help="number of a camera, or a video file, played at its own speed")
    parser.add_argument("--point", type=parse_point, required=True, help="X,Y on the object in the first frame")
    parser.add_argument("--state", type=Path, default=Path("camera_loop.npz"), help="the session is saved here")
    parser.add_argument("--max-frames", type=int, default=None)
    options = parser.parse_args()

    # SIGTERM, which service managers send, ends the loop as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    tracker = Tracker.load(options.bundle)
    if options.state.exists():
        session, prompts = tracker.resume_session(options.state), None
        print(f"resumed {options.state} at frame {session.frame_index} with object {session.object_ids}")
    else:
        session, prompts = tracker.start_session(max_objects=1), {1: Prompt(points=[options.point], labels=[1])}
    with NewestFrame(options.camera) as camera:
        try:
            run(session, camera, prompts, options.max_frames)
        except KeyboardInterrupt:
            print("interrupted")
    if session.object_ids:
        session.save(options.state)
        print(f"saved {options.state} at frame {session.frame_index}")


def run(session: Session, camera: NewestFrame, prompts: dict[int, Prompt] | None, max_frames: int | None) -> None:
    """Track until the camera ends, or for so many frames."""
    latencies: list[float] = []
    tracked, failures, reported = 0, 0, time.perf_counter()
    first = last = -1
    while max_frames is None or tracked < max_frames:
        arrival = camera.take()
        if arrival is None:
            break
        try:
            result = session.track(arrival.pixels, prompts=prompts)
        except EtamError as error:
            # The session is as it was before this frame.
            failures += 1
            print(f"frame {arrival.number} was left out: {error}")
            if failures == MAX_FAILURES:
                raise SystemExit(f"{MAX_FAILURES} frames in a row failed") from error
            continue
        prompts, failures = None, 0
        latencies.append(time.perf_counter() - arrival.time)
        act(result.masks[0], bool(result.object_scores[0] > 0))
        tracked += 1
        if tracked == 1:
            print("tracking; Ctrl-C saves the session and ends")
        first, last = (arrival.number if first < 0 else first), arrival.number
        if time.perf_counter() - reported > REPORT_SECONDS:
            reported = time.perf_counter()
            print(summary(latencies[-1000:], tracked, last - first + 1 - tracked))
            del latencies[:-1000]
    if latencies:
        print(summary(latencies, tracked, last - first + 1 - tracked))


def act(mask: np.ndarray, visible: bool) -> None:
    """What the robot does with a mask, bool (H, W). Keep it short, or hand the mask to another thread."""


def summary(latencies: list[float], tracked: int, dropped: int) -> str:
    median, slow = 1000 * np.percentile(latencies, (50, 95))
    return f"{tracked} frames tracked, {dropped} dropped; latency {median:.1f} ms median, {slow:.1f} ms 95th percentile"


def parse_point(text: str) -> tuple[float, float]:
    x, y = (float(part) for part in text.split(","))
    return x, y


if __name__ == "__main__":
    main()
