"""An fp32 bundle becomes one of another precision, without the checkpoint and without PyTorch."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etam_edge.bundle import Bundle, check_target
from etam_edge.bundle.targets import version_numbers
from etam_edge.errors import InputError
from etam_edge.recipe import FP16, FP32, INT8, MIXED, Recipe
from etam_edge.workflows.clips import PathLike, check_frame_shapes, load_calibration, load_clips
from etam_edge.workflows.conversion import Conversion
from etam_edge.workflows.packages import export_packages
from etam_edge.workflows.progress import ProgressCallback
from etam_edge.workflows.sensitivity import choose_regions

if TYPE_CHECKING:
    from etam_edge.calibration.recording import Recording
    from etam_edge.media.datasets import Clip
    from etam_edge.spec import GraphSizes, ModelSpec

OLDEST_TENSORRT = "8.6"
"""The oldest TensorRT that a bundle is written for by default."""
HALF_SCALES_SINCE = (10,)
"""The first TensorRT whose parser reads opset 19, which fp16 scales need."""
DEFAULT_MAX_DROP = 0.5
"""Points of J&F that "mixed" may lose, by default."""


def quantize(
    bundle: Bundle | PathLike,
    calibration: PathLike | Sequence[Clip] | Recording | None = None,
    precision: Recipe | str = INT8,
    output: PathLike | None = None,
    *,
    prompts: PathLike | None = None,
    float_precision: str = FP16,
    regions: Mapping[str, str] | None = None,
    max_drop: float | None = None,
    clips: PathLike | Sequence[Clip] | None = None,
    oldest_tensorrt: str = OLDEST_TENSORRT,
    overwrite: bool = False,
    progress: ProgressCallback | None = None,
) -> Bundle:
    """Make an fp16, int8 or mixed bundle from an fp32 bundle. Needs onnx and ONNX Runtime; PyTorch is not imported.

    The calibration clips are tracked with the fp32 bundle, samples of every graph's inputs are recorded, and activation
    ranges are measured on them: they give the int8 scales, and show where fp16 would overflow. Before the new bundle is
    written, its graphs have run all samples without a NaN.

    Args:
        bundle: in fp32, or its path.
        calibration: clips like those that the model will see (a path, or `Clip` objects), or a recording of
            `etam-edge record`. int8 and mixed need it; without it fp16 is checked on the clips of this package.
        precision: "fp16", "int8", "mixed" (the fastest set of int8 regions that loses at most `max_drop`), or a
            `Recipe` with a precision for every region.
        output: directory of the new bundle; None for a name beside the source (`ti-fp32` gives `ti-int8`).
        prompts: JSON file of prompts, where `calibration` is the path of a single clip.
        float_precision: "fp16" (for GPUs) or "fp32" (for CPUs), what int8 and mixed leave unquantized.
        regions: other precisions for some regions, by name (`etam_edge.recipe.REGIONS`).
        max_drop: points of J&F that may be lost against fp32; 0.5 for mixed. With a `Recipe`, its int8 regions are
            candidates, as with mixed.
        clips: with ground truth, that `max_drop` is measured on; None for those of `calibration`.
        oldest_tensorrt: oldest version of TensorRT that shall read the bundle. From "10" on, int8 products beside fp16
            have fp16 scales (opset 19), and TensorRT writes their results as fp16; "8.6" reads opset 17 only.
        overwrite: replace a bundle that is there.
        progress: told of the stages "calibration" (or "fp16 range") and "ranges", and with mixed of "sensitivity" and
            "mixed".

    Returns:
        the new bundle. `manifest.calibration` holds the clips, the largest activation of every region, what was left
        in float, and with mixed the cost of every region and the sets that were tried.

    Raises:
        InputError: an argument cannot be used, the bundle is not fp32, fp16 would overflow, or nothing is within
            `max_drop`. Nothing was written.
        BundleError: the bundle is missing or damaged.
        ExportError: a graph cannot be converted, or its output is NaN.
        RuntimeUnavailableError: onnx, ONNX Runtime or, for mixed and for videos, OpenCV is not installed.
    """
    source = bundle if isinstance(bundle, Bundle) else Bundle.load(bundle)
    manifest = source.manifest
    if manifest.recipe.precision != FP32:
        raise InputError(f"{source.path} is {manifest.precision}; other precisions are made from an fp32 bundle")
    plan = plan_quantization(
        calibration, precision, prompts, float_precision, regions, max_drop, clips, oldest_tensorrt
    )
    if plan is None:
        raise InputError(f"{source.path} is fp32 already; ask for `precision` fp16, int8 or mixed")
    target = Path(output) if output is not None else _beside(source.path, plan.precision)
    check_target(target, overwrite)
    plan.check_clips(manifest.model, manifest.sizes, str(source.path))
    return plan.carry_out(source, target, overwrite, progress)


def _beside(source: Path, precision: str) -> Path:
    """`ti-int8` beside `ti-fp32`."""
    path = source if source.name else source.resolve()
    name = precision if path.name == FP32 else f"{path.name.removesuffix(f'-{FP32}')}-{precision}"
    return path.with_name(name)


@dataclass(frozen=True)
class QuantizationPlan:
    """Arguments of a quantization that fit together.

    Attributes:
        precision: one word for the manifest and for names.
        recipe: a precision for every region; candidates are int8 where `max_drop` is given.
        calibration: clips, a recording, or None for the clips of this package.
        max_drop: points of J&F, or None where the recipe is taken as it is.
        clips: that `max_drop` is measured on, or None for those of the calibration.
    """

    precision: str
    recipe: Recipe
    calibration: list[Clip] | Recording | None
    max_drop: float | None
    clips: list[Clip] | None

    def check_clips(self, spec: ModelSpec, sizes: GraphSizes, bundle: str) -> None:
        """Check that the clips serve a bundle, before any of them is tracked.

        Args:
            spec, sizes: of the fp32 bundle.
            bundle: how an error names it.

        Raises:
            InputError: the clips are too short, their frames or those of the recording have another size, or `max_drop`
                cannot be measured on them.
        """
        from etam_edge.calibration.recorder import check_clips
        from etam_edge.calibration.recording import Recording

        judged = self.clips
        if isinstance(self.calibration, Recording):
            self.calibration.check_sizes(sizes, bundle)
        elif self.calibration is not None:
            check_clips(self.calibration, spec)
            check_frame_shapes(self.calibration, sizes, bundle)
            judged = judged or self.calibration
        check_frame_shapes(judged or [], sizes, bundle)
        if self.max_drop is None:
            return
        if judged is None:
            raise InputError("a recording has no clips to measure the drop of J&F on; add `clips`, with ground truth")
        if not any(clip.truth for clip in judged):
            raise InputError(
                "the drop of J&F cannot be measured, since none of the clips has ground-truth masks; add `clips` with "
                "some that do"
            )

    def carry_out(self, source: Bundle, output: Path, overwrite: bool, progress: ProgressCallback | None) -> Bundle:
        """Write the bundle at `output`, all of it or nothing.

        Raises:
            InputError, ExportError: as of `quantize`.
        """
        with export_packages("another precision"):
            from etam_edge.calibration.trial import store_answer

        stage = "calibration" if self.recipe.int8_regions else "fp16 range"
        with Conversion(source, self.calibration, stage, progress) as conversion:
            recipe, extra = self.recipe, dict[str, Any]()
            if self.max_drop is not None:
                clips = self.clips or conversion.clips
                if clips is None:
                    raise InputError("a recording has no clips to measure the drop of J&F on; add `clips`")
                recipe, extra = choose_regions(conversion, clips, recipe, self.max_drop, progress)
            with tempfile.TemporaryDirectory(prefix="etam-edge-") as folder:
                written = conversion.write(Path(folder) / "bundle", recipe, self.precision, extra)
                return store_answer(written).copy_to(output, overwrite)


def with_scales_for(oldest_tensorrt: str, recipe: Recipe) -> Recipe:
    """The recipe with scales in fp16 where every TensorRT from a version on reads them, and where they gain something.

    Raises:
        InputError: the version is older than any that is supported, or not a version.
    """
    version = version_numbers(oldest_tensorrt)
    if version < version_numbers(OLDEST_TENSORRT):
        raise InputError(
            f"`oldest_tensorrt={oldest_tensorrt}` is not a version of TensorRT from {OLDEST_TENSORRT} on; "
            f"use {OLDEST_TENSORRT} or 10"
        )
    useful = recipe.int8_regions and recipe.float_precision == FP16
    return recipe.with_scales(FP16) if useful and version >= HALF_SCALES_SINCE else recipe


def plan_quantization(
    calibration: PathLike | Sequence[Clip] | Recording | None,
    precision: Recipe | str,
    prompts: PathLike | None,
    float_precision: str,
    regions: Mapping[str, str] | None,
    max_drop: float | None,
    clips: PathLike | Sequence[Clip] | None,
    oldest_tensorrt: str = OLDEST_TENSORRT,
) -> QuantizationPlan | None:
    """Check the arguments of `quantize`, and read its clips.

    Returns:
        the plan, or None where the precision is fp32 throughout.

    Raises:
        InputError: they contradict each other, or something is missing.
    """
    overrides = dict(regions or {})
    word = precision if isinstance(precision, str) else precision.precision
    given = Recipe.default(precision, float_precision) if isinstance(precision, str) else precision
    recipe = with_scales_for(oldest_tensorrt, given.with_regions(overrides))
    choosing = word == MIXED or (isinstance(precision, Recipe) and max_drop is not None)
    if not choosing and (max_drop is not None or clips is not None):
        raise InputError(
            "`max_drop` and `clips` choose the regions of precision mixed; leave them out, or ask for mixed"
        )
    if max_drop is not None and not (math.isfinite(max_drop) and max_drop >= 0):
        raise InputError(f"`max_drop={max_drop:g}` is not a number of points; give 0 or more, for example 0.5")
    if recipe.precision == FP32 and not overrides:
        if calibration is not None or prompts is not None:
            raise InputError("fp32 needs no calibration; leave out `calibration` and `prompts`, or name a `precision`")
        return None
    if prompts is not None and calibration is None:
        raise InputError("`prompts` names what to track in the clip of `calibration`; add it")
    if recipe.int8_regions and calibration is None:
        from etam_edge.media.datasets import LAYOUTS

        raise InputError(
            f"int8 needs calibration on clips like those that the model will see; add `calibration=CLIPS`: {LAYOUTS}, "
            "or a recording of `etam-edge record`"
        )
    if choosing:
        word = MIXED
    elif word != recipe.precision:
        word = recipe.precision
    return QuantizationPlan(
        precision=word,
        recipe=recipe,
        calibration=None if calibration is None else load_calibration(calibration, prompts),
        max_drop=(DEFAULT_MAX_DROP if max_drop is None else max_drop) if choosing else None,
        clips=None if clips is None else load_clips(clips),
    )
