"""How commands make a bundle of another precision: exporters and calibration, wired together."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etam_edge.errors import InputError
from etam_edge.recipe import FP16, FP32, MAX_FLOAT16, Recipe

if TYPE_CHECKING:
    from etam_edge.bundle import Bundle
    from etam_edge.calibration.fp16_range import ActivationRange
    from etam_edge.calibration.ranges import Ranges
    from etam_edge.calibration.recording import Recording
    from etam_edge.media.datasets import Clip
    from etam_edge.runtimes import Tracker


@dataclass
class Conversion:
    """An fp32 bundle with the ranges of a recording, from which bundles of other precisions are made.

    Attributes:
        source: in fp32.
        recording: that the ranges come from.
        ranges: of every tensor of every graph.
        regions: region by graph and tensor.
        clips: that were recorded, or None where an earlier recording was used.
    """

    source: Bundle
    recording: Recording
    ranges: Ranges
    regions: dict[str, dict[str, str]]
    clips: list[Clip] | None
    _folders: ExitStack = field(default_factory=ExitStack)

    @classmethod
    def prepare(cls, source: Bundle, calibration: Path | None, prompts: Path | None, label: str) -> Conversion:
        """Record the clips, or read an earlier recording, and measure ranges. Shows a progress bar.

        Args:
            source: in fp32.
            calibration: clips or a recording; None for the clips of this package.
            prompts: of the clip, where it is one.
            label: what the clips are for.

        Raises:
            InputError: clips or recording cannot be used.
        """
        from etam_edge.calibration.recording import MANIFEST, Recording
        from etam_edge.cli.console import export_packages, progress_bar
        from etam_edge.media.datasets import find_clips

        with export_packages("another precision"):
            import onnx

            from etam_edge.calibration.ranges import measure_ranges
            from etam_edge.exporters.regions import tensor_regions

        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="etam-edge-")))
            clips = None
            if calibration is not None and (calibration / MANIFEST).is_file():
                recording = Recording.load(calibration)
                recording.check(source)
            else:
                size = source.manifest.sizes.frame_size
                clips = (
                    packaged_clips(folder / "clips", size) if calibration is None else find_clips(calibration, prompts)
                )
                recording = record_clips(source, clips, folder / "recording", label)
            total = sum(len(rows) for rows in recording.samples.values())
            with progress_bar() as bar:
                task = bar.add_task("ranges", total=total)
                ranges = measure_ranges(source, recording, lambda graph: bar.update(task, advance=1))
            regions = {
                name: tensor_regions(name, onnx.load(source.graph_path(name)), source.manifest.model)
                for name in source.manifest.graphs
            }
            return cls(source, recording, ranges, regions, clips, stack.pop_all())

    def check_fp16_range(self, recipe: Recipe) -> list[ActivationRange]:
        """The largest activation of every region, and whether the recipe can hold it."""
        from etam_edge.calibration.fp16_range import check_fp16_range

        return check_fp16_range(self.ranges, self.regions, recipe)

    def write(self, output: Path, recipe: Recipe, precision: str, extra: dict[str, Any] | None = None) -> Bundle:
        """The bundle of a recipe. Its graphs have answered every sample with finite numbers.

        Raises:
            InputError: an fp16 region would overflow, or the output cannot be written.
            ExportError: a graph cannot be written so, or answers NaN.
        """
        from etam_edge.calibration.fp16_range import check_overflow
        from etam_edge.calibration.qdq import QdqQuantizer
        from etam_edge.calibration.trial import try_graphs
        from etam_edge.exporters.precision import derive_bundle

        reaches = self.check_fp16_range(recipe)
        check_overflow(reaches)
        calibration = {
            **self.recording.summary(),
            "largest": {reach.region: {"value": reach.largest, "where": reach.where} for reach in reaches},
            **(extra or {}),
        }
        made = derive_bundle(self.source, output, recipe, precision, calibration, QdqQuantizer(self.ranges))
        try:
            try_graphs(made, self.recording)
        except BaseException:
            shutil.rmtree(output, ignore_errors=True)
            raise
        return made

    def tracker(self, recipe: Recipe, folder: Path, threads: int | None = None) -> Tracker:
        """A tracker of a recipe, for accuracy: its fp16 regions round after every operation, as a GPU's do."""
        from etam_edge.exporters.rounded_bundle import rounded_bundle
        from etam_edge.runtimes import Tracker

        made = self.write(Path(tempfile.mkdtemp(dir=folder)) / "bundle", recipe, recipe.precision)
        if any(recipe.float_type(region) == FP16 for region in recipe.regions):
            made = rounded_bundle(made, made.path.with_name("rounded"))
        return Tracker.load(made.path, threads=threads)

    def close(self) -> None:
        """Remove what was recorded for this conversion alone."""
        self._folders.close()


def packaged_clips(folder: Path, frame_size: tuple[int, int] | None = None) -> list[Clip]:
    """The clips of this package, written to a folder; with a frame size, (H, W), scaled, and without ground truth."""
    from etam_edge.media import write_clips
    from etam_edge.media.datasets import find_clips
    from etam_edge.media.scaled import scaled_clip

    write_clips(folder)
    clips = find_clips(folder)
    return clips if frame_size is None else [scaled_clip(clip, frame_size) for clip in clips]


def record_clips(source: Bundle, clips: Sequence[Clip], output: Path, label: str, **options: Any) -> Recording:
    """Record clips with a progress bar. Options as of `calibration.recorder.record`."""
    from etam_edge.calibration.recorder import record
    from etam_edge.cli.console import frame_progress
    from etam_edge.runtimes import Tracker

    with frame_progress() as bar:
        task = bar.add_task(label, total=sum(clip.length for clip in clips))
        return record(
            Tracker.load(source.path),
            clips,
            output,
            progress=lambda clip, _: bar.update(task, advance=1, description=f"{label} {clip}"),
            **options,
        )


def check_recipe(recipe: Recipe, has_calibration: bool) -> None:
    """
    Raises:
        InputError: there are int8 regions and nothing to calibrate them on.
    """
    if recipe.int8_regions and not has_calibration:
        from etam_edge.media.datasets import LAYOUTS

        raise InputError(
            f"int8 needs calibration on clips like those it will see; add --calibration CLIPS: {LAYOUTS}, "
            "or a recording of `etam-edge record`"
        )


def show_audit(reaches: Sequence[ActivationRange]) -> None:
    """The audit as a table."""
    from rich.table import Table

    from etam_edge.cli.console import out

    table = Table("region", "largest activation", "of fp16's 65504", "computed in", title="overflow audit")
    for reach in reaches:
        share = f"{100 * reach.largest / MAX_FLOAT16:.2g} %"
        table.add_row(reach.region, f"{reach.largest:.4g}", share, FP16 if reach.half else FP32)
    out.print(table)
