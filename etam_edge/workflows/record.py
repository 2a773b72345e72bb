"""Recordings for calibration: what every graph is given while clips are tracked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from etam_edge import atomic
from etam_edge.bundle import Bundle
from etam_edge.workflows.clips import PathLike, load_clips
from etam_edge.workflows.conversion import record_clips
from etam_edge.workflows.progress import ProgressCallback

if TYPE_CHECKING:
    from etam_edge.calibration.recording import Recording
    from etam_edge.media.datasets import Clip


def record(
    bundle: Bundle | PathLike,
    clips: PathLike | Sequence[Clip],
    output: PathLike,
    *,
    prompts: PathLike | None = None,
    samples: int = 32,
    max_size: int = 2000,
    seed: int = 0,
    overwrite: bool = False,
    progress: ProgressCallback | None = None,
) -> Recording:
    """Track clips and keep samples of every graph's inputs, spread over the states of the memory.

    A recording takes the place of clips in `etam_edge.quantize`, and can be used again.

    Args:
        bundle: in fp32, or its path.
        clips: a path, or `Clip` objects.
        output: folder of the recording.
        prompts: JSON file of prompts, where `clips` is the path of a single clip.
        samples: number of samples of each graph, at most.
        max_size: MB (10^6 bytes) of all samples together, at most.
        seed: of the choice of samples; the same clips and seed give the same recording.
        overwrite: replace a recording that is there.
        progress: told of the stage "record".

    Raises:
        InputError: the clips cannot be used or never fill the memory, or the output cannot be written.
        BundleError: the bundle is missing or damaged.
        RuntimeUnavailableError: ONNX Runtime or, for videos, OpenCV is not installed.
    """
    from etam_edge.calibration.recording import MANIFEST

    target = Path(output)
    atomic.check_target(target, overwrite, MANIFEST, "recording")
    return record_clips(
        bundle if isinstance(bundle, Bundle) else Bundle.load(bundle),
        load_clips(clips, prompts),
        target,
        "record",
        progress,
        samples=samples,
        max_bytes=max_size * 1_000_000,
        seed=seed,
        overwrite=overwrite,
    )
