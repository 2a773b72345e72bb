"""What fp16 and int8 do to the official architectures, without their trained weights.

    OMP_WAIT_POLICY=PASSIVE python -m benchmarks.precision_of_large_models efficienttam_ti_512x512 efficienttam_ti_2

Weights come from the seeds of the parity goldens; with `--sharp` the queries of memory cross-attention are six times
as large, so that attention looks at few keys, as trained attention does. Seeded weights draw no meaningful masks: the
figures say how far a precision moves the answers, not what accuracy it costs (`etam-edge check` says that, of trained
weights). Prints a table in Markdown: size of the bundle, error of the mask logits over their root mean square, mean and
smallest IoU with the masks of fp32, and milliseconds per frame of all bundles, interleaved in one run.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np

from etam_edge import Prompt, Tracker, follow
from etam_edge.evaluation.metrics import region_similarity
from etam_edge.exporters.export import export_bundle
from etam_edge.exporters.rounded_bundle import rounded_bundle
from etam_edge.media import chair_outline, write_clips
from etam_edge.media.datasets import find_clips
from etam_edge.media.playback import PlayedFrame, open_frames, play
from etam_edge.media.prompt_plan import plan_of
from etam_edge.media.sources import NamedFrame
from etam_edge.recipe import FP16, FP32, INT8, Recipe
from etam_edge.spec import GraphSizes
from etam_edge.workflows.conversion import Conversion
from etam_edge_testing.davis import write_crossing
from etam_edge_testing.golden_runs import seeded_model

SEED = 11
RECIPES = {
    "fp16": Recipe.default(FP16),
    "int8, rest fp16": Recipe.default(INT8, FP16),
    "int8, rest and memory_scores fp32": Recipe.default(INT8, FP32).with_regions({"memory_scores": FP32}),
    "int8, rest fp32": Recipe.default(INT8, FP32),
    "int8, and attention times values": Recipe.default(INT8, FP32).with_regions({"memory_values": INT8}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--sharp", action="store_true", help="queries of memory cross-attention times six")
    parser.add_argument("--frames", type=int, default=24, help="of the chair clip, at least 20")
    options = parser.parse_args()
    for name in options.models:
        measure(name, "sharp" if options.sharp else "", options.frames)


def measure(name: str, form: str, frames: int) -> None:
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        model = seeded_model(name, SEED, form)
        checkpoint = {"name": "seeded", "sha256": ""}
        source = export_bundle(model, folder / "fp32", GraphSizes(), checkpoint)
        del model
        calibration = folder / "clips"
        write_crossing(calibration, frames)
        bundles: dict[str, tuple[Path, Path]] = {"fp32": (source.path, source.path)}
        with Conversion(source, find_clips(calibration)) as conversion:
            for word, recipe in RECIPES.items():
                made = conversion.write(folder / word.replace(" ", "_"), recipe, recipe.precision)
                honest = made.path
                if any(recipe.float_type(region) == FP16 for region in recipe.regions):
                    honest = rounded_bundle(made, made.path.with_name(made.path.name + "_rounded")).path
                bundles[word] = made.path, honest
        print(f"\n{name}{' with sharp queries' if form else ''}, {frames} frames of the chair clip, one object\n")
        print("| precision | MB | logit error, relative | mean IoU | smallest IoU | ms a frame | fp32 over it |")
        print("| --- | --- | --- | --- | --- | --- | --- |")
        times = timed({word: path for word, (path, _) in bundles.items()}, frames)
        expected = None
        for word, (path, honest) in bundles.items():
            masks, logits = answers(honest, frames)
            expected = expected or (masks, logits)
            error = float(np.sqrt(np.mean((logits - expected[1]) ** 2) / np.mean(expected[1] ** 2)))
            overlap = [region_similarity(*pair) for pair in zip(masks, expected[0], strict=True)]
            size = sum(file.stat().st_size for file in (path / "graphs").iterdir()) / 1e6
            print(
                f"| {word} | {size:.0f} | {error:.4f} | {np.mean(overlap):.4f} | {min(overlap):.3f} | "
                f"{times[word]:.0f} | {times['fp32'] / times[word]:.2f} |",
                flush=True,
            )


def chair(frames: int) -> list[np.ndarray]:
    with tempfile.TemporaryDirectory() as folder:
        write_clips(Path(folder))
        clip = next(clip for clip in find_clips(Path(folder)) if clip.name == "chair")
        return [frame.pixels for frame in islice(clip.frames, frames)]


def answers(path: Path, frames: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Masks and mask logits of the frames after the prompt."""
    session = Tracker.load(path).start_session(max_objects=1)
    results = list(follow(session, chair(frames), prompts={1: Prompt(mask=chair_outline())}))
    return [result.masks[0] for result in results[1:]], np.stack([result.mask_logits[0] for result in results[1:]])


def timed(paths: dict[str, Path], frames: int) -> dict[str, float]:
    """Median milliseconds of a frame with a full memory, the bundles interleaved."""
    sessions = {word: Tracker.load(path).start_session(max_objects=1) for word, path in paths.items()}
    times: dict[str, list[float]] = {word: [] for word in paths}

    def runner(word: str) -> Callable[[PlayedFrame[NamedFrame]], None]:
        def run(played: PlayedFrame[NamedFrame]) -> None:
            begin = time.perf_counter()
            sessions[word].track(played.pixels, prompts=played.prompts)
            if played.index > 7:
                times[word].append(1e3 * (time.perf_counter() - begin))

        return run

    plan = plan_of({1: Prompt(mask=chair_outline())})
    for _ in play(open_frames(chair(frames)), plan, [runner(word) for word in paths]):
        pass
    return {word: float(np.median(values)) for word, values in times.items()}


if __name__ == "__main__":
    main()
