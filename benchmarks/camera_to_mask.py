"""camera_to_mask.py: what resizing frames and masks costs in accuracy and time, on the host and inside the graphs.

The reference resizes frames with Pillow's bicubic filter. Four other ways are held against it: a linear resize, a
linear resize to a whole multiple of the model's size and an average over what is too many, OpenCV (`resize="fast"`),
and the same filter inside the graph (`etam-edge export --frame-size`). Printed as Markdown: pixels, masks of etam_nano
over the clips in the package (and those of --davis), and times.

    OMP_WAIT_POLICY=PASSIVE python -m benchmarks.camera_to_mask --davis path/to/DAVIS
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import PIL
import torch
import torch.nn.functional as F
from torch import nn

from etam_edge import Tracker
from etam_edge.bundle import GraphSignature, TensorSpec
from etam_edge.exporters.checkpoints import PACKAGED, load_model
from etam_edge.exporters.export import export_bundle
from etam_edge.exporters.graphs.camera import FrameResize, MaskEnlarge
from etam_edge.exporters.graphs.tracing import export_graph
from etam_edge.media.datasets import Clip, find_clips
from etam_edge.media.playback import PlayedFrame, play
from etam_edge.media.scaled import scaled_clip
from etam_edge.media.sources import NamedFrame
from etam_edge.model import EfficientTAM
from etam_edge.runtimes.resample import resize_bilinear, resize_frame
from etam_edge.runtimes.resizing import EXACT, FAST, ExactResizing, FastResizing
from etam_edge.runtimes.types import FrameResult
from etam_edge.spec import NANO, GraphSizes
from etam_edge.workflows.conversion import packaged_clips

LARGE = (1080, 1920)
"""(H, W) that clips are enlarged to, with Pillow's Lanczos filter."""
ENLARGED = ("chair", "crossing")
TIMED = ((1080, 1920), (720, 1280))
SIDES = (512, 1024)
PARTS = ("pixels", "masks", "times")
SAMPLES = 4
"""Frames of each clip whose pixels are compared."""

Resize = Callable[[np.ndarray, int], np.ndarray]
"""uint8 (H, W, 3) and a size S to (S, S, 3), uint8 or float32."""
Frames = dict[str, list[np.ndarray]]


# --- ways to resize ---


def linear(frame: np.ndarray, size: int) -> np.ndarray:
    return _numpy(F.interpolate(_torch(frame), (size, size), mode="bilinear", align_corners=False))


def pooled(frame: np.ndarray, size: int) -> np.ndarray:
    """To the nearest multiple of the size on either axis, then averaged, so that frames may have any size."""
    height, width = frame.shape[:2]
    return Averaged((height, width), size)(torch.from_numpy(frame.copy())[None])[0].numpy()


class Averaged(nn.Module):
    """`pooled` as a graph, for its time. uint8 (1, H, W, 3) to float32 (1, S, S, 3)."""

    def __init__(self, frame_size: tuple[int, int], size: int) -> None:
        super().__init__()
        self.steps = tuple(max(1, round(side / size)) for side in frame_size)
        self.large = tuple(step * size for step in self.steps)

    def forward(self, frame: torch.Tensor) -> torch.Tensor:
        planes = frame.to(torch.float32).permute(0, 3, 1, 2)
        planes = F.interpolate(planes, self.large, mode="bilinear", align_corners=False)
        return F.avg_pool2d(planes, self.steps).permute(0, 2, 3, 1)


def in_graph(frame: np.ndarray, size: int) -> np.ndarray:
    height, width = frame.shape[:2]
    return FrameResize((height, width), size)(torch.from_numpy(frame.copy())[None])[0].numpy()


def opencv(frame: np.ndarray, size: int) -> np.ndarray:
    return FastResizing().frame(frame, size)


FORMS: dict[str, Resize] = {"linear": linear, "linear, averaged": pooled, '"fast"': opencv, "in the graph": in_graph}


def _torch(frame: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(frame.copy()).float().permute(2, 0, 1)[None]


def _numpy(image: torch.Tensor) -> np.ndarray:
    return image[0].permute(1, 2, 0).numpy()


class _Emulated(ExactResizing):
    """A session's way to resize frames that is none of the runtime's, rounded to the uint8 that its graph reads."""

    def __init__(self, resize: Resize) -> None:
        self._resize = resize

    def frame(self, frame: np.ndarray, size: int) -> np.ndarray:
        return np.floor(self._resize(frame, size) + 0.5).clip(0, 255).astype(np.uint8)


# --- pixels ---


def compare_pixels(frames: Frames, sides: Sequence[int]) -> list[list[str]]:
    """A row for every form: mean and largest difference from the reference in levels, for every size S."""
    rows = []
    for name, form in FORMS.items():
        row = [name]
        for side in sides:
            differences = [
                np.abs(form(frame, side).astype(np.float32) - resize_frame(frame, side))
                for clip in frames.values()
                for frame in clip
            ]
            mean, most = np.mean([one.mean() for one in differences]), max(one.max() for one in differences)
            row.append(f"{mean:.4f} / {most:.0f}" if mean < 0.01 else f"{mean:.2f} / {most:.0f}")
        rows.append(row)
    return rows


def some_frames(clips: Sequence[Clip], count: int) -> Frames:
    """A few frames of every clip, evenly spread over its first `count`."""
    found = {}
    for clip in clips:
        frames = [frame.pixels for frame in islice(clip.frames, count)]
        found[clip.name] = frames[:: max(1, len(frames) // SAMPLES)][:SAMPLES]
    return found


# --- masks ---


class Runner:
    """One session through a clip.

    Args:
        tracker: a bundle.
        clip: to track, for its number of objects.
        form: how frames are resized, where the runtime has no such way.
        resize: the runtime's way.
    """

    def __init__(self, tracker: Tracker, clip: Clip, form: Resize | None = None, resize: str = EXACT) -> None:
        self._session = tracker.start_session(max_objects=len(clip.plan.object_ids), resize=resize)
        if form is not None:
            self._session._resizing = _Emulated(form)

    def step(self, played: PlayedFrame[NamedFrame]) -> FrameResult:
        return self._session.track(played.pixels, prompts=played.prompts)


def compare_masks(plain: Tracker, camera: Tracker, clip: Clip, frames: int) -> list[str]:
    """For every form: mean and smallest IoU with the masks of the reference's resize, after the prompted frame."""
    runners = [
        Runner(plain, clip),
        Runner(plain, clip, linear),
        Runner(plain, clip, pooled),
        Runner(plain, clip, resize=FAST),
        Runner(camera, clip),
    ]
    found: list[list[float]] = [[] for _ in runners[1:]]
    for played, (reference, *others) in play(clip.frames, clip.plan, [runner.step for runner in runners], frames):
        if not played.index:
            continue
        for values, other in zip(found, others, strict=True):
            values += [_iou(*pair) for pair in zip(other.masks, reference.masks, strict=True)]
    return [f"{np.mean(values):.4f} / {min(values):.3f}" for values in found]


def _iou(first: np.ndarray, second: np.ndarray) -> float:
    union = np.count_nonzero(first | second)
    return np.count_nonzero(first & second) / union if union else 1.0


# --- times ---


def measure_times(frame_size: tuple[int, int], side: int, repeats: int, folder: Path) -> list[str]:
    """Milliseconds, median (minimum), interleaved: frames exact, fast, in graphs averaged and exact; masks likewise."""
    height, width = frame_size
    generator = np.random.default_rng(0)
    frame = generator.integers(0, 256, size=(height, width, 3), dtype=np.uint8)
    # As smooth as masks are.
    logits = resize_bilinear(generator.normal(size=(1, 16, 16)).astype(np.float32), side // 4, side // 4)
    exact, fast = ExactResizing(), FastResizing()
    given = ("frame", "uint8", (1, height, width, 3))
    averaged = _graph(folder / "averaged.onnx", Averaged(frame_size, side), given, "float32")
    pixels = _graph(folder / "frame.onnx", FrameResize(frame_size, side), given, "float32")
    given = ("logits", "float32", (1, side // 4, side // 4))
    masks = _graph(folder / "masks.onnx", MaskEnlarge(frame_size, side // 4), given, "uint8")
    calls: list[Callable[[], object]] = [
        lambda: exact.frame(frame, side),
        lambda: fast.frame(frame, side),
        lambda: averaged(frame[None]),
        lambda: pixels(frame[None]),
        lambda: exact.masks(logits, height, width),
        lambda: fast.masks(logits, height, width),
        lambda: masks(logits),
    ]
    times: list[list[float]] = [[] for _ in calls]
    for turn in range(repeats + 1):
        for call, taken in zip(calls, times, strict=True):
            begin = time.perf_counter()
            call()
            # The first turn fills caches and tables.
            if turn:
                taken.append(1e3 * (time.perf_counter() - begin))
    return [f"{statistics.median(taken):.1f} ({min(taken):.1f})" for taken in times]


def _graph(
    path: Path, module: nn.Module, given: tuple[str, str, tuple[int, ...]], kind: str
) -> Callable[[np.ndarray], object]:
    """A module as a graph of its own in ONNX Runtime on the CPU."""
    with torch.inference_mode():
        shape = tuple(module(torch.zeros(given[2], dtype=getattr(torch, given[1]))).shape)
    export_graph(module, GraphSignature((TensorSpec(*given),), (TensorSpec("answer", kind, shape),)), path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda array: session.run(None, {given[0]: array})


# --- all of it ---


def nano() -> EfficientTAM:
    """The model in the package."""
    return load_model(NANO, PACKAGED)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    for row in (header, ["---"] * len(header), *rows):
        print(f"| {' | '.join(row)} |")
    print(flush=True)


def size_text(frame_size: tuple[int, int]) -> str:
    return f"{frame_size[1]} x {frame_size[0]}"


def show_pixels(clips: Sequence[Clip], frames: int) -> None:
    print(f"Pixels, levels of 255 from the reference's: mean / largest, over {SAMPLES} frames of each clip.\n")
    sets = {"own size": clips, size_text(LARGE): [scaled_clip(clip, LARGE) for clip in clips]}
    sides = (NANO.image_size, SIDES[0])
    parts = {name: compare_pixels(some_frames(some, frames), sides) for name, some in sets.items()}
    header = ["frames resized", *(f"{name} to {side}" for name in parts for side in sides)]
    table(
        header,
        [[rows[0][0], *(text for row in rows for text in row[1:])] for rows in zip(*parts.values(), strict=True)],
    )


def show_masks(clips: Sequence[Clip], frames: int, folder: Path) -> None:
    model = nano()

    def load(name: str, sizes: GraphSizes) -> Tracker:
        path = folder / name
        if not path.exists():
            export_bundle(model, path, sizes, {"name": model.spec.name, "sha256": ""})
        return Tracker.load(path, "onnxruntime", provider="cpu")

    print(f"Masks of {model.spec.name}, IoU with those of the exact resize on the host: mean / smallest.\n")
    plain = load("plain", GraphSizes())
    rows = []
    for clip in clips:
        size = clip.frames.frame_shape
        camera = load(size_text(size), GraphSizes(frame_size=size))
        rows.append([clip.name, size_text(size), *compare_masks(plain, camera, clip, frames)])
    table(["clip", "frames", *FORMS], rows)


def show_times(repeats: int, folder: Path) -> None:
    print(f"Milliseconds on this CPU, median (minimum) of {repeats}, interleaved; masks of one object.\n")
    rows = [
        [size_text(size), str(side), *measure_times(size, side, repeats, folder)] for size in TIMED for side in SIDES
    ]
    frame_ways, mask_ways = (
        ("exact", "fast", "averaged in a graph", "exact in a graph"),
        ("exact", "fast", "in a graph"),
    )
    table(["frames", "S", *(f"frame, {way}" for way in frame_ways), *(f"mask, {way}" for way in mask_ways)], rows)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=60, help="frames of each clip (60)")
    parser.add_argument("--repeats", type=int, default=15, help="of every timing (15)")
    parser.add_argument("--davis", type=Path, help="more clips, in DAVIS layout")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="these tables alone")
    parser.add_argument("--quick", action="store_true", help="the drawn clip in its own size alone, and no times")
    options = parser.parse_args(arguments)
    if options.frames < 2 or options.repeats < 1:
        parser.error("give 2 frames and 1 repeat or more")
    print(
        f"Python {platform.python_version()}, Pillow {PIL.__version__}, OpenCV {cv2.__version__}, torch "
        f"{torch.__version__}, ONNX Runtime {onnxruntime.__version__}, {platform.machine()}\n",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clips = packaged_clips(folder / "clips")
        if options.quick:
            clips = [clip for clip in clips if clip.name == "crossing"]
        elif options.davis is not None:
            clips += find_clips(options.davis)
        if "pixels" in options.only:
            show_pixels(clips, options.frames)
        if "masks" in options.only:
            large = [] if options.quick else [scaled_clip(clip, LARGE) for clip in clips if clip.name in ENLARGED]
            show_masks([*clips, *large], options.frames, folder / "bundles")
        if "times" in options.only and not options.quick:
            show_times(options.repeats, folder)


if __name__ == "__main__":
    sys.exit(main())
