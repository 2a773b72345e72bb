"""live_latency.py: how old masks are in a live run, by source and by which frames the tracker receives.

Sources are a made-up camera at 30 and at 200 frames a second, whose frames are as old as their exposure, and the clip
in the package, decoded and played at its own speed. A run of each is tracked with one object, after a warm-up. Printed
as Markdown: age from capture to mask, frame time, and the share of frames that were skipped.

    OMP_WAIT_POLICY=PASSIVE python -m benchmarks.live_latency bundles/etam_nano-fp32
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

import onnxruntime

from etam_edge import Prompt, Tracker
from etam_edge.live.loop import Audience, LiveLoop, LoopOptions, Sink
from etam_edge.live.reader import Delivery, FrameReader
from etam_edge.live.statistics import LiveReport
from etam_edge.media import CHAIR_VIDEO
from etam_edge.media.prompt_plan import plan_of
from etam_edge.media.sources import FrameSource, open_source
from etam_edge_testing.live_sources import MadeUpCamera

PROMPT = Prompt(points=[(140, 120)], labels=[1])
"""The chair, on the first frame of the clip."""
RATES = (30, 200)
MODES = {
    "newest": Delivery(),
    "`--queue 4`": Delivery(queue=4),
    "`--every-frame`": Delivery(every_frame=True),
}


def measure(tracker: Tracker, source: FrameSource, delivery: Delivery, seconds: float) -> LiveReport:
    """The figures of a run of so many seconds."""
    with tracker.start_session(True, max_objects=1) as session, FrameReader(source, delivery=delivery) as reader:
        loop = LiveLoop(session, reader, plan_of({1: PROMPT}), {}, Sink(), Audience(), LoopOptions())
        end = time.monotonic() + seconds
        loop.run(lambda: time.monotonic() > end)
        return loop.report()


def sources() -> dict[str, Callable[[], FrameSource]]:
    """How to open each source."""
    frames = [frame.pixels for frame in open_source(str(CHAIR_VIDEO))]
    there_and_back = [*frames, *frames[-2:0:-1]]

    def camera(rate: int) -> Callable[[], FrameSource]:
        return lambda: MadeUpCamera(lambda number: there_and_back[number % len(there_and_back)], 10**9, rate)

    return {
        **{f"camera, {rate} frames/s": camera(rate) for rate in RATES},
        "video file": lambda: open_source(str(CHAIR_VIDEO)),
    }


def row(name: str, mode: str, report: LiveReport) -> str:
    age, frame = report.age, report.frame_time
    values = [
        name,
        mode,
        f"{report.frames_per_second:.1f}",
        f"{age.p50:.1f} / {age.p95:.1f} / {age.p99:.1f}",
        f"{frame.p50:.1f} / {frame.p95:.1f} / {frame.p99:.1f}",
        f"{100 * report.skipped_share:.1f} %",
    ]
    return f"| {' | '.join(values)} |"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--seconds", type=float, default=10.0, help="of every run (10)")
    parser.add_argument("--threads", type=int, help="CPU threads of the tracker")
    options = parser.parse_args(arguments)
    print(f"Python {platform.python_version()}, ONNX Runtime {onnxruntime.__version__}, {platform.machine()}\n")
    with Tracker.load(options.bundle, threads=options.threads) as tracker:
        with tracker.start_session() as session:
            for frame in islice(open_source(str(CHAIR_VIDEO)), 20):
                session.track(frame.pixels, {1: PROMPT} if frame.index == 0 else None)
        header = ["source", "frames given", "tracked/s", "age, ms", "frame time, ms", "skipped"]
        print(f"| {' | '.join(header)} |\n| {' | '.join(['---'] * len(header))} |", flush=True)
        for name, opened in sources().items():
            for mode, delivery in MODES.items():
                print(row(name, mode, measure(tracker, opened(), delivery, options.seconds)), flush=True)


if __name__ == "__main__":
    sys.exit(main())
