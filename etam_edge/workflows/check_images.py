"""What a precision or a runtime costs in accuracy on single images: two bundles compared over labelled images."""

from __future__ import annotations

import json
import math
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from etam_edge.atomic import atomic_file
from etam_edge.errors import InputError
from etam_edge.runtimes.backends.threads import AUTO, Threads
from etam_edge.workflows.check import as_on_a_gpu, load_side
from etam_edge.workflows.clips import PathLike
from etam_edge.workflows.progress import ProgressCallback, Stage

if TYPE_CHECKING:
    from etam_edge.evaluation.images import ImageComparison, Means

FIGURES = "check_images.json"
MAX_DROP = 1.0


@dataclass(frozen=True)
class ImageCheckResult:
    """A candidate bundle compared with a reference bundle over images.

    Attributes:
        comparison: figures of every object.
        max_drop: points of the mean of IoU and F that may be lost.
        min_iou: smallest mean IoU of the two bundles' masks that is allowed, or None.
        report: the JSON file of all figures, or None.
    """

    comparison: ImageComparison
    max_drop: float
    min_iou: float | None
    report: Path | None = None

    @property
    def overall(self) -> Means:
        """Means over all objects and both kinds of prompt."""
        return self.comparison.means()

    @property
    def passed(self) -> bool:
        """Whether the candidate is within its thresholds."""
        means = self.overall
        return means.drop <= self.max_drop and (self.min_iou is None or means.agreement >= self.min_iou)

    @property
    def sentence(self) -> str:
        """The verdict in words."""
        means = self.overall
        lost = f"lost {means.drop:.2f} points of IoU and F (allowed: {self.max_drop:g})"
        agreed = "" if self.min_iou is None else f", mean IoU with the reference {means.agreement:.3f}"
        agreed += "" if self.min_iou is None else f" (needed: {self.min_iou:g})"
        return f"{'passed' if self.passed else 'failed'}: {lost}{agreed}"


def check_images(
    bundle: PathLike,
    reference: PathLike,
    images: PathLike,
    annotations: PathLike | None = None,
    *,
    max_drop: float | None = None,
    min_iou: float | None = None,
    max_images: int | None = None,
    output: PathLike | None = None,
    runtime: str = "auto",
    reference_runtime: str = "auto",
    provider: str = "auto",
    reference_provider: str = "auto",
    threads: Threads = AUTO,
    round_fp16: bool = True,
    progress: ProgressCallback | None = None,
) -> ImageCheckResult:
    """Compare two bundles over images with ground-truth masks.

    Every object is segmented twice by each bundle: from a click on its innermost pixel (the best of three masks), and
    from the box around it (the single mask). IoU and the boundary measure F are those of DAVIS.

    Args:
        bundle: that is judged.
        reference: that it is compared with.
        images: folder with images/ and instances/ (label images) or a COCO JSON file, or a folder of images.
        annotations: COCO JSON file, or folder of label images, where they are elsewhere.
        max_drop: points of the mean of IoU and F, over all objects, that may be lost; None for 1.0.
        min_iou: smallest mean IoU of the masks of both bundles, 0 to 1, or None.
        max_images: take this many, evenly spaced, or None for all.
        output: folder for the figures (check_images.json), or None.
        runtime, reference_runtime, provider, reference_provider, threads, round_fp16: as of `check`.
        progress: told of the stage "check".

    Raises:
        InputError: an argument, an image or an annotation cannot be used, or the output cannot be written.
        BundleError: a bundle is missing or damaged, or cannot segment images.
        RuntimeUnavailableError: a runtime or OpenCV is not installed.
    """
    from etam_edge.evaluation.images import compare_images
    from etam_edge.media.image_sets import find_images
    from etam_edge.media.opencv import import_opencv
    from etam_edge.runtimes import Segmenter

    import_opencv("checking images")
    allowed = MAX_DROP if max_drop is None else max_drop
    if not math.isfinite(allowed):
        raise InputError(f"`max_drop={max_drop}` is not a number of points")
    if min_iou is not None and not 0 <= min_iou <= 1:
        raise InputError(f"`min_iou={min_iou}` is not an IoU from 0 to 1")
    found = find_images(Path(images), None if annotations is None else Path(annotations), max_images)
    candidate = load_side(bundle, runtime, provider, threads, "")
    other = load_side(reference, reference_runtime, reference_provider, threads, "`reference`: ")
    with ExitStack() as stack:
        sides = (as_on_a_gpu(side, threads, stack) if round_fp16 else side for side in (candidate, other))
        ours, theirs = (Segmenter(side.bundle, side.backend) for side in sides)
        stage = Stage(progress, "check", len(found), "image")
        comparison = compare_images(ours, theirs, found, stage.step)
    if not comparison.figures:
        raise InputError(f"no object is marked in the annotations of {images}; give images with objects")
    result = ImageCheckResult(comparison, allowed, min_iou)
    if output is None:
        return result
    path = Path(output) / FIGURES
    text = json.dumps({"verdict": result.sentence, **comparison.to_dict()}, indent=1, allow_nan=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            file.write(f"{text}\n".encode())
    except OSError as error:
        raise InputError(f"{path} could not be written ({error.strerror}); name another `output`") from error
    return ImageCheckResult(comparison, allowed, min_iou, path)
