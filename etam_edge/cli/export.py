"""`etam-edge export`: a checkpoint becomes a bundle."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from etam_edge.errors import InputError, RuntimeUnavailableError

if TYPE_CHECKING:
    from etam_edge.bundle import Bundle


class Precision(str, Enum):
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
    precision: Annotated[Precision, typer.Option(help="Number type of the graphs.")] = Precision.FP32,
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
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the bundle at --output.")] = False,
) -> None:
    """Export a checkpoint to a bundle of static ONNX graphs, verified against the PyTorch model."""
    from etam_edge.bundle import check_target
    from etam_edge.spec import GraphSizes, find_spec

    sizes = GraphSizes(conditioning_frames, max_points)
    spec = find_spec(_model_name(model, checkpoint))
    if pool is Pool.COARSE and spec.pooled:
        raise InputError(f"{spec.name} is pooled already; leave out --pool 2x2")
    suffix = "-pool2x2" if pool is Pool.COARSE else ""
    target = output or Path("bundles") / f"{spec.name}{suffix}-{precision.value}"
    # All that can be refused is refused before the weights are fetched and the graphs traced.
    check_target(target, overwrite)

    try:
        from etam_edge.exporters.checkpoints import fetch_checkpoint, load_model
        from etam_edge.exporters.export import STEPS, export_bundle, pooled
    except ImportError as error:
        raise RuntimeUnavailableError(
            f'export needs a package that is missing ({error.name}); install it with: pip install "etam-edge[export]"'
        ) from error
    from etam_edge.bundle import sha256_of
    from etam_edge.cli.console import progress_bar

    file = checkpoint if checkpoint is not None else fetch_checkpoint(spec.name)
    network = load_model(spec, file)
    approximation = None
    if pool is Pool.COARSE:
        network = pooled(network)
        approximation = "memory attention pooled 2x2 (Lemma 1), with weights that were trained unpooled"
    with progress_bar() as bar:
        task = bar.add_task("export", total=len(STEPS) + 1)

        def step(name: str) -> None:
            bar.update(task, advance=1, description=f"export {name}" if name != "verify" else "verify")

        source = {"name": file.name, "sha256": sha256_of(file)}
        bundle = export_bundle(network, target, sizes, source, approximation, overwrite, step)
        bar.update(task, advance=1, description="done")
    _report(bundle, name_official=model is None and checkpoint is None)


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
    out.print(
        f"  differs from the PyTorch model by at most {worst:.1e} (of root mean square, or of one where that is less)"
    )
    if manifest.approximation:
        out.print(f"  approximation: {manifest.approximation}")
    if name_official:
        official = f"etam-edge export --model {SUGGESTED}"
        out.print(f"  {manifest.model.name} is small and learned from drawn clips; for real work: {official}")
    next_command(f"etam-edge track {bundle.path} VIDEO --point X,Y")
