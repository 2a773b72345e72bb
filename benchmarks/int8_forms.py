"""What each form of int8 products costs on this CPU, in accuracy and in time.

    OMP_WAIT_POLICY=PASSIVE python -m benchmarks.int8_forms INT8_BUNDLE FP32_BUNDLE --clips DAVIS

Prints the kind of CPU and two tables in Markdown, one of them with `--clips`. Every form is compared with exact integer
arithmetic of the same bundle, which is int8 by int8 where a probe finds that this CPU computes it exactly, and with the
fp32 bundle. The first table follows one object through 24 frames of the package's chair clip, and has milliseconds per
frame of all forms and of fp32, interleaved in one run: wall-clock time, and CPU time of all threads, which other load
moves less. The second one compares over clips, with J&F where they have ground-truth masks.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.precision_of_large_models import chair
from benchmarks.tables import table
from etam_edge import Prompt, Tracker
from etam_edge.benchmark.machine import look_at_machine
from etam_edge.bundle import Bundle
from etam_edge.evaluation.check import run
from etam_edge.evaluation.metrics import region_similarity
from etam_edge.evaluation.summary import compare
from etam_edge.media import chair_outline
from etam_edge.media.datasets import Clip, find_clips
from etam_edge.runtimes.backends.onnxruntime.backend import OnnxRuntimeBackend
from etam_edge.runtimes.backends.onnxruntime.int8_forms import (
    FORMS,
    INT8_INT8,
    form_of_this_cpu,
    is_exact,
    kernel_product,
)
from etam_edge.runtimes.backends.onnxruntime.options import OnnxRuntimeOptions

FRAMES = 24
FULL_MEMORY = 17
"""Frames until the memory of an object is full; times before that do not count."""
EXACT = INT8_INT8.name
FP32 = "fp32 bundle"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("int8", type=Path, help="int8 bundle")
    parser.add_argument("fp32", type=Path, help="fp32 bundle of the same checkpoint")
    parser.add_argument("--clips", type=Path, help="clips in DAVIS layout, or a folder of videos with prompts files")
    parser.add_argument("--threads", type=int, help="CPU threads; the runtime chooses without it")
    options = parser.parse_args()
    machine = look_at_machine(Path("/"))
    print(f"{machine.cpu} ({machine.instruction_set}), {machine.cores} cores; taken: {form_of_this_cpu().name}\n")
    if not is_exact(INT8_INT8, kernel_product):
        raise SystemExit(f"{EXACT} is not exact on this CPU, and nothing here can stand for exact integers")
    bundle = Bundle.load(options.int8)
    trackers = {
        name: Tracker(bundle, OnnxRuntimeBackend(bundle, "cpu", OnnxRuntimeOptions(options.threads, int8_form=name)))
        for name in FORMS
    }
    trackers[FP32] = Tracker.load(options.fp32, provider="cpu", threads=options.threads)
    print(chair_table(trackers), flush=True)
    if options.clips is not None:
        print(f"\n{clips_table(trackers, find_clips(options.clips))}")


def chair_table(trackers: Mapping[str, Tracker]) -> str:
    """Accuracy over FRAMES frames of one object, and times of frames with a full memory, all trackers interleaved."""
    frames = chair(60)
    sessions = {name: tracker.start_session(max_objects=1) for name, tracker in trackers.items()}
    masks: dict[str, list[np.ndarray]] = {name: [] for name in sessions}
    times: dict[str, list[float]] = {name: [] for name in sessions}
    busy: dict[str, list[float]] = {name: [] for name in sessions}
    for index, frame in enumerate(frames):
        prompts = {1: Prompt(mask=chair_outline())} if index == 0 else None
        for name in sessions if index % 2 == 0 else reversed(sessions):
            begin, begin_busy = time.perf_counter(), time.process_time()
            result = sessions[name].track(frame, prompts)
            if index >= FULL_MEMORY:
                times[name].append(1e3 * (time.perf_counter() - begin))
                busy[name].append(1e3 * (time.process_time() - begin_busy))
            if 0 < index < FRAMES:
                masks[name].append(result.masks[0])
    rows = []
    for name in trackers:
        exact, fp32 = (_overlap(masks[name], masks[other]) for other in (EXACT, FP32))
        cells = [f"{np.median(times[name]):.1f}", f"{min(times[name]):.1f}", f"{np.median(busy[name]):.1f}"]
        rows.append([name, _exactness(name), *exact, *(["", ""] if name == FP32 else fp32), *cells])
    header = ["form", "products", *_columns("exact"), *_columns("fp32"), "ms (median)", "ms (minimum)", "CPU ms"]
    return table(f"Chair clip, one object, {FRAMES} frames; times of {len(frames) - FULL_MEMORY} frames", header, rows)


def clips_table(trackers: Mapping[str, Tracker], clips: Sequence[Clip]) -> str:
    """Every form against exact integers and against fp32, over clips."""
    runs = {name: [run(tracker, clip) for clip in clips] for name, tracker in trackers.items()}
    rows = []
    for name in FORMS:
        against_exact, against_fp32 = (compare(runs[name], runs[other]).overall for other in (EXACT, FP32))
        drop = "" if against_fp32.drop is None else f"{against_fp32.drop.j_and_f:.3f}"
        overlaps = [
            text
            for figures in (against_exact, against_fp32)
            for text in (f"{figures.mean_iou:.4f}", f"{figures.worst.iou:.3f}")
        ]
        flips = against_fp32.score_flips.count + against_fp32.choice_flips.count
        rows.append([name, _exactness(name), *overlaps[:2], drop, *overlaps[2:], str(flips)])
    header = ["form", "products", *_columns("exact"), "drop of J&F", *_columns("fp32"), "flips"]
    frames = sum(one.frames for one in runs[FP32])
    return table(f"{len(clips)} clips, {frames} frames", header, rows)


def _columns(other: str) -> list[str]:
    return [f"mean IoU with {other}", "smallest"]


def _exactness(name: str) -> str:
    form = FORMS.get(name)
    if form is None or not form.integer:
        return "float"
    return "exact" if is_exact(form, kernel_product) else "saturate"


def _overlap(masks: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> list[str]:
    found = [region_similarity(*pair) for pair in zip(masks, expected, strict=True)]
    return [f"{np.mean(found):.4f}", f"{min(found):.3f}"]


if __name__ == "__main__":
    main()
