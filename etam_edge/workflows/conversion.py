"""Bundles of other precisions from one fp32 bundle: its activation ranges are measured once and serve many recipes."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from etam_edge.recipe import FP16, Recipe
from etam_edge.runtimes.backends.threads import AUTO, Threads
from etam_edge.workflows.packages import export_packages
from etam_edge.workflows.progress import ProgressCallback, Stage

if TYPE_CHECKING:
    from etam_edge.bundle import Bundle
    from etam_edge.calibration.recording import Recording
    from etam_edge.media.datasets import Clip
    from etam_edge.runtimes import Tracker


class Conversion:
    """An fp32 bundle with the activation ranges of a recording. A context manager: temporary files go when it ends.

    Args:
        source: an fp32 bundle.
        calibration: clips, which are recorded first; a recording; or None for the clips of this package.
        stage: name of the recording's stage.
        progress: told of the stages `stage` and "ranges".

    Attributes:
        source: as given.
        recording: samples of every graph's inputs.
        ranges: smallest and largest value of every tensor, by graph and tensor.
        regions: region of every tensor, by graph and tensor.
        clips: clips that were recorded, or None where a recording was given.

    Raises:
        InputError: clips or recording cannot be used with this bundle.
        RuntimeUnavailableError: onnx or ONNX Runtime is not installed.
    """

    def __init__(
        self,
        source: Bundle,
        calibration: Sequence[Clip] | Recording | None,
        stage: str = "calibration",
        progress: ProgressCallback | None = None,
    ) -> None:
        from etam_edge.calibration.recording import Recording

        with export_packages("another precision"):
            from etam_edge.calibration.ranges import measure_ranges
            from etam_edge.exporters.regions import bundle_regions

        self.source = source
        self.clips: list[Clip] | None = None
        with ExitStack() as stack:
            self._folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="etam-edge-")))
            if isinstance(calibration, Recording):
                calibration.check(source)
                self.recording = calibration
            else:
                size = source.manifest.sizes.frame_size
                self.clips = packaged_clips(self._folder / "clips", size) if calibration is None else list(calibration)
                self.recording = record_clips(source, self.clips, self._folder / "recording", stage, progress)
            samples = Stage(progress, "ranges", sum(map(len, self.recording.samples.values())), "sample")
            self.ranges = measure_ranges(source, self.recording, samples.step)
            self.regions = bundle_regions(source)
            self._cleanup = stack.pop_all()

    def __enter__(self) -> Conversion:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._cleanup.close()

    def write(self, output: Path, recipe: Recipe, precision: str, extra: dict[str, Any] | None = None) -> Bundle:
        """Write the bundle of a recipe, and run every sample through its graphs.

        Args:
            output: directory of the bundle, which must not exist.
            recipe: a precision for every region.
            precision: one word for the manifest.
            extra: what else `Manifest.calibration` shall hold.

        Raises:
            InputError: an activation of an fp16 region is beyond the range of fp16, or the output cannot be written.
            ExportError: a graph cannot be converted, or its output for a sample is NaN or infinite.
        """
        from etam_edge.calibration.fp16_range import check_fp16_range, check_overflow
        from etam_edge.calibration.qdq import QdqQuantizer
        from etam_edge.calibration.trial import try_graphs
        from etam_edge.exporters.precision import derive_bundle

        ranges = check_fp16_range(self.ranges, self.regions, recipe)
        check_overflow(ranges)
        calibration = {
            **self.recording.summary(),
            "largest": {one.region: {"value": one.largest, "where": one.where} for one in ranges},
            **(extra or {}),
        }
        written = derive_bundle(self.source, output, recipe, precision, calibration, QdqQuantizer(self.ranges))
        try:
            try_graphs(written, self.recording)
        except BaseException:
            shutil.rmtree(output, ignore_errors=True)
            raise
        return written

    def tracker(self, recipe: Recipe, threads: Threads = AUTO) -> Tracker:
        """A tracker of a recipe, for measurements of accuracy: fp16 is rounded after every operation, as on a GPU.

        Its bundle lies in this conversion's temporary directory.

        Raises:
            InputError, ExportError: as of `write`.
        """
        from etam_edge.exporters.rounded_bundle import rounded_bundle
        from etam_edge.runtimes import Tracker

        bundle = self.write(Path(tempfile.mkdtemp(dir=self._folder)) / "bundle", recipe, recipe.precision)
        if any(recipe.float_type(region) == FP16 for region in recipe.regions):
            bundle = rounded_bundle(bundle, bundle.path.with_name("rounded"))
        return Tracker.load(bundle.path, threads=threads)


def packaged_clips(folder: Path, frame_size: tuple[int, int] | None = None) -> list[Clip]:
    """The clips of this package, written to a folder; with a frame size, (H, W), scaled to it, without ground truth.

    Raises:
        InputError: the folder cannot be written.
    """
    from etam_edge.media import write_clips
    from etam_edge.media.datasets import find_clips
    from etam_edge.media.scaled import scaled_clip

    write_clips(folder)
    clips = find_clips(folder)
    return clips if frame_size is None else [scaled_clip(clip, frame_size) for clip in clips]


def record_clips(
    source: Bundle,
    clips: Sequence[Clip],
    output: Path,
    stage: str,
    progress: ProgressCallback | None = None,
    **options: Any,
) -> Recording:
    """Track clips and record the inputs of every graph. Options and errors are those of `calibration.recorder.record`.

    Args:
        stage: name of the stage that `progress` is told of.
    """
    from etam_edge.calibration.recorder import record
    from etam_edge.runtimes import Tracker

    frames = Stage(progress, stage, sum(clip.length for clip in clips), "frame")
    tracker = Tracker.load(source.path)
    return record(tracker, clips, output, progress=lambda clip, _: frames.step(clip), **options)
