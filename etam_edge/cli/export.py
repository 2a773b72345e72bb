"""`etam-edge export`: a checkpoint becomes a bundle."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from etam_edge.errors import InputError
from etam_edge.recipe import FP32, Recipe

if TYPE_CHECKING:
    from etam_edge.bundle import Bundle
    from etam_edge.cli.conversion import Conversion
    from etam_edge.media.datasets import Clip
    from etam_edge.spec import GraphSizes, ModelSpec


class Precision(str, Enum):
    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"
    MIXED = "mixed"


class Rest(str, Enum):
    FP16 = "fp16"
    FP32 = "fp32"


class Pool(str, Enum):
    OWN = "own"
    COARSE = "2x2"


def export(
    model: Annotated[
        str | None,
        typer.Option(help="Model to export; `etam-edge models` lists them.", show_default="etam_nano, in the package"),
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Checkpoint file; without it an official model's is downloaded.")
    ] = None,
    precision: Annotated[
        Precision,
        typer.Option(help="fp32, fp16, int8, or mixed: the fastest set of int8 regions within --max-drop."),
    ] = Precision.FP32,
    calibration: Annotated[
        Path | None,
        typer.Option(
            help="Clips like those the model will see, or a recording of `etam-edge record`; int8 and mixed need them.",
            show_default="clips in the package, for the overflow audit of fp16",
        ),
    ] = None,
    prompts: Annotated[Path | None, typer.Option(help="JSON file of prompts, where --calibration is one clip.")] = None,
    region: Annotated[
        list[str] | None,
        typer.Option(help="NAME=fp32|fp16|int8: another precision for a region (etam-edge inspect lists them)."),
    ] = None,
    rest: Annotated[
        Rest, typer.Option(help="What int8 and mixed leave unquantized: fp16 for a GPU, fp32 for a CPU.")
    ] = Rest.FP16,
    max_drop: Annotated[
        float | None, typer.Option(help="Points of J&F that mixed may lose against fp32.", show_default="0.5")
    ] = None,
    clips: Annotated[
        Path | None,
        typer.Option(
            help="Clips with ground-truth masks that mixed is judged on.", show_default="those of --calibration"
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Directory of the bundle.", show_default="bundles/MODEL-PRECISION")
    ] = None,
    pool: Annotated[
        Pool,
        typer.Option(help="Memory attention: the variant's own, or 2x2 for an unpooled variant, an approximation."),
    ] = Pool.OWN,
    conditioning_frames: Annotated[
        int, typer.Option(help="Conditioning frames that an object's memory holds; equal to upstream up to this many.")
    ] = 2,
    max_points: Annotated[int, typer.Option(help="Points that one prompt may have; a box takes two.")] = 16,
    frame_size: Annotated[
        str | None,
        typer.Option(
            help="WxH of a camera: the graphs take its frames and give masks of that size, and no other.",
            show_default="any size, resized on the host",
        ),
    ] = None,
    padded_windows: Annotated[
        bool,
        typer.Option(
            "--padded-windows", help="ViT windows at the border filled up to whole ones: more work in fewer kernels."
        ),
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the bundle at --output.")] = False,
) -> None:
    """Export a checkpoint to a bundle of static ONNX graphs, verified against the PyTorch model."""
    from etam_edge.bundle import check_target
    from etam_edge.cli.console import export_packages
    from etam_edge.cli.frame_size import parse_frame_size
    from etam_edge.spec import GraphSizes, find_spec

    frame_shape = None if frame_size is None else parse_frame_size(frame_size)
    sizes = GraphSizes(conditioning_frames, max_points, frame_shape, padded_windows)
    spec = find_spec(_model_name(model, checkpoint))
    if pool is Pool.COARSE and spec.pooled:
        raise InputError(f"{spec.name} is pooled already; leave out --pool 2x2")
    wish = _wish(precision, calibration, prompts, region or [], rest, max_drop, clips)
    suffix = "-pool2x2" if pool is Pool.COARSE else ""
    if sizes.frame_size is not None:
        height, width = sizes.frame_size
        suffix += f"-{width}x{height}"
    target = output or Path("bundles") / f"{spec.name}{suffix}-{precision.value if wish is None else wish.precision}"
    # All that can be refused is refused before the weights are fetched and the graphs traced.
    check_target(target, overwrite)
    if wish is not None:
        wish.check_clips(spec, sizes)

    with export_packages("export"):
        from etam_edge.exporters.checkpoints import fetch_checkpoint, load_model
        from etam_edge.exporters.export import STEPS, export_bundle, pooled
    from etam_edge.bundle import sha256_of
    from etam_edge.cli.console import progress_bar

    file = checkpoint if checkpoint is not None else fetch_checkpoint(spec.name)
    network = load_model(spec, file)
    approximation = None
    if pool is Pool.COARSE:
        network = pooled(network)
        approximation = "memory attention pooled 2x2 (Lemma 1), with weights that were trained unpooled"
    source = {"name": file.name, "sha256": sha256_of(file)}
    with tempfile.TemporaryDirectory(prefix="etam-edge-") as folder:
        place = target if wish is None else Path(folder) / "fp32"
        with progress_bar() as bar:
            task = bar.add_task("export", total=len(STEPS) + 1)

            def step(name: str) -> None:
                bar.update(task, advance=1, description=f"export {name}" if name != "verify" else "verify")

            bundle = export_bundle(network, place, sizes, source, approximation, overwrite, step)
            bar.update(task, advance=1, description="done")
        if wish is not None:
            bundle = wish.fulfil(bundle, Path(folder)).copy_to(target, overwrite)
    _report(bundle, name_official=model is None and checkpoint is None)


@dataclass(frozen=True)
class _Wish:
    """What was asked for beyond fp32, all of it checked.

    Attributes:
        recipe: a precision for every region; mixed chooses among those that it has in int8.
        max_drop: of mixed, else None.
    """

    precision: str
    recipe: Recipe
    calibration: Path | None
    prompts: Path | None
    max_drop: float | None
    clips: Path | None

    def check_clips(self, spec: ModelSpec, sizes: GraphSizes) -> None:
        """
        Raises:
            InputError: there are no clips, they are too short, their frames or those of a recording have another size,
                or mixed cannot be judged on them.
        """
        from etam_edge.calibration.recorder import check_clips
        from etam_edge.calibration.recording import MANIFEST, Recording
        from etam_edge.media.datasets import find_clips

        judged = None if self.clips is None else find_clips(self.clips)
        if self.calibration is not None and (self.calibration / MANIFEST).is_file():
            Recording.load(self.calibration).check_sizes(sizes, "the bundle to be made")
        elif self.calibration is not None:
            found = find_clips(self.calibration, self.prompts)
            check_clips(found, spec)
            judged = judged or found
            _check_frame_shapes(found, sizes)
        _check_frame_shapes(judged or [], sizes)
        if self.max_drop is None:
            return
        if judged is None:
            raise InputError("a recording holds no clips to judge mixed on; add --clips, with ground-truth masks")
        if not any(clip.truth for clip in judged):
            raise InputError(
                "mixed is judged by J&F, and none of the clips has ground-truth masks; add --clips with some that do"
            )

    def fulfil(self, source: Bundle, folder: Path) -> Bundle:
        """The bundle in that precision, in a folder for passing use."""
        from etam_edge.cli.conversion import Conversion, show_audit

        conversion = Conversion.prepare(
            source, self.calibration, self.prompts, "calibration" if self.recipe.int8_regions else "audit"
        )
        try:
            recipe, extra = self.recipe, dict[str, Any]()
            if self.max_drop is not None:
                recipe, extra = self._mixed(conversion, self.max_drop)
            reaches = conversion.check_fp16_range(recipe)
            if any(reach.half for reach in reaches):
                show_audit(reaches)
            return conversion.write(folder / "typed", recipe, self.precision, extra)
        finally:
            conversion.close()

    def _mixed(self, conversion: Conversion, max_drop: float) -> tuple[Recipe, dict[str, Any]]:
        from etam_edge.cli.sensitivity import choose_regions
        from etam_edge.media.datasets import find_clips

        clips = find_clips(self.clips) if self.clips is not None else conversion.clips
        assert clips is not None, "check_clips saw to it"
        return choose_regions(conversion, clips, self.recipe, max_drop)


def _wish(
    precision: Precision,
    calibration: Path | None,
    prompts: Path | None,
    regions: list[str],
    rest: Rest,
    max_drop: float | None,
    clips: Path | None,
) -> _Wish | None:
    """What to make of the fp32 graphs; None to leave them as they are.

    Raises:
        InputError: options contradict each other, or lack something.
    """
    import math

    from etam_edge.cli.conversion import check_recipe
    from etam_edge.recipe import parse_regions

    mixed = precision is Precision.MIXED
    if not mixed and (max_drop is not None or clips is not None):
        raise InputError(
            "--max-drop and --clips choose the regions of --precision mixed; leave them out, or ask for mixed"
        )
    if max_drop is not None and not (math.isfinite(max_drop) and max_drop >= 0):
        raise InputError(f"--max-drop {max_drop:g} is no number of points; give 0 or more, for example 0.5")
    overrides = parse_regions(regions)
    recipe = Recipe.default(precision.value, rest.value).with_regions(overrides)
    if recipe.precision == FP32 and not overrides:
        if calibration is not None or prompts is not None:
            raise InputError("fp32 needs no calibration; leave out --calibration and --prompts, or name a --precision")
        return None
    check_recipe(recipe, calibration is not None)
    if calibration is not None and not calibration.exists():
        raise InputError(f"there is nothing at --calibration {calibration}; name clips, or a recording")
    if prompts is not None and calibration is None:
        raise InputError("--prompts says what to track in the clip of --calibration; add it")
    word = precision.value if recipe.precision == precision.value or mixed else recipe.precision
    return _Wish(word, recipe, calibration, prompts, (0.5 if max_drop is None else max_drop) if mixed else None, clips)


def _check_frame_shapes(clips: Sequence[Clip], sizes: GraphSizes) -> None:
    """
    Raises:
        InputError: a clip's frames have another size than --frame-size.
    """
    if sizes.frame_size is not None:
        height, width = sizes.frame_size
        for clip in clips:
            where = f"clip {clip.name}"
            sizes.check_frame_shape(clip.frames.frame_shape, where, f"a bundle of --frame-size {width}x{height}")


def _model_name(model: str | None, checkpoint: Path | None) -> str:
    from etam_edge.spec import MODELS, NANO

    if model is not None:
        return model
    if checkpoint is None:
        return NANO.name
    if checkpoint.stem in MODELS:
        return checkpoint.stem
    raise InputError(
        f"the model of {checkpoint} cannot be told from its name; add --model NAME (etam-edge models lists them)"
    )


def _report(bundle: Bundle, name_official: bool) -> None:
    from etam_edge.cli.console import megabytes, next_command, out
    from etam_edge.cli.models import SUGGESTED

    manifest = bundle.manifest
    size = sum(bundle.graph_path(name).stat().st_size for name in manifest.graphs)
    worst = max(manifest.verification.values())
    out.print(
        f"{bundle.path}: {manifest.model.name}, {manifest.precision}, {len(manifest.graphs)} graphs, {megabytes(size)}"
    )
    if manifest.recipe.precision != FP32:
        from etam_edge.cli.inspect import recipe_lines

        for line in recipe_lines(manifest):
            out.print(f"  {line}", markup=False)
    differ = "differs" if manifest.recipe.precision == FP32 else "its fp32 graphs differ"
    out.print(
        f"  {differ} from the PyTorch model by at most {worst:.1e} (of root mean square, or of one where that is less)"
    )
    if manifest.sizes.frame_size is not None:
        height, width = manifest.sizes.frame_size
        out.print(f"  takes frames of {width} x {height} pixels, and no other, and gives masks of that size")
    if manifest.approximation:
        out.print(f"  approximation: {manifest.approximation}")
    if name_official:
        official = f"etam-edge export --model {SUGGESTED}"
        out.print(f"  {manifest.model.name} is small and learned from drawn clips; for real work: {official}")
    if manifest.recipe.precision == FP32:
        next_command(f"etam-edge track {bundle.path} VIDEO --point X,Y")
    else:
        next_command(f"etam-edge check {bundle.path} --reference FP32_BUNDLE --clips CLIPS")
