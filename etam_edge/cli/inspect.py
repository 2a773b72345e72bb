"""`etam-edge inspect`: what a bundle is, and whether it is whole."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from etam_edge.recipe import REGIONS

if TYPE_CHECKING:
    from etam_edge.bundle import Bundle, Manifest
    from etam_edge.spec import GraphSizes


def inspect(
    bundle: Annotated[Path, typer.Argument(help="Directory that export wrote.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")] = False,
) -> None:
    """Show what a bundle holds, after checking every file against its hash."""
    from rich.table import Table

    from etam_edge.bundle import Bundle
    from etam_edge.cli.console import megabytes, next_command, out
    from etam_edge.evaluation.thresholds import describe

    loaded = Bundle.load(bundle)
    manifest = loaded.manifest
    if as_json:
        out.print(manifest.to_json(), markup=False, end="")
        return
    spec, sizes = manifest.model, manifest.sizes
    pooling = {"none": "unpooled", "score_bias": "pooled 2x2, ln 4 on scores", "key_bias": "pooled 2x2, ln 4 on keys"}
    check = f"{shlex.join(['etam-edge', 'check', str(bundle)])} --reference FP32_BUNDLE --clips DIR"
    facts = {
        "model": f"{spec.name}, {spec.image_size} px, {pooling[spec.pooling.value]}",
        "precision": manifest.precision,
        "checkpoint": f"{manifest.checkpoint.name} (sha256 {manifest.checkpoint.sha256 or 'not known'})",
        "approximation": manifest.approximation or "none",
        "memory": f"{sizes.conditioning_frames} conditioning + {spec.recent_frames} recent frames in "
        f"{sizes.slots(spec)} slots of {spec.memory_tokens} tokens, {sizes.pointer_slots(spec)} object pointers",
        "points a prompt": str(sizes.max_points),
        "frames": frames_line(sizes),
        "windows at the border": "filled up to whole ones" if sizes.padded_windows else "cut to their real tokens",
        "accuracy": describe(manifest.accuracy) if manifest.accuracy else f"not checked; run: {check}",
        "engines": engines_line(loaded),
        "made": f"{manifest.created} with " + ", ".join(f"{name} {text}" for name, text in manifest.versions.items()),
    }
    for name, text in facts.items():
        out.print(f"{name + ':':<17}{text}", markup=False)

    regions = Table(
        "region",
        "what it is",
        "precision",
        "largest activation",
        title=f"recipe ({manifest.recipe.float_precision} between int8)" if manifest.recipe.int8_regions else "recipe",
    )
    largest = manifest.calibration.largest if manifest.calibration else {}
    for name, precision in manifest.recipe.regions.items():
        regions.add_row(name, REGIONS[name], precision, f"{largest[name].value:.4g}" if name in largest else "")
    out.print(regions)

    graphs = Table("graph", "size", "opset", "reads", "writes", title="graphs (files match their hashes)")
    for name, entry in manifest.graphs.items():
        reads, writes = (
            "\n".join(f"{t.name} {t.dtype} ({', '.join(map(str, t.shape))})" for t in tensors)
            for tensors in (entry.signature.inputs, entry.signature.outputs)
        )
        graphs.add_row(name, megabytes(loaded.graph_path(name).stat().st_size), str(entry.opset), reads, writes)
        graphs.add_section()
    out.print(graphs)

    verification = Table("output", "largest difference", title="against the PyTorch model, at export")
    for name, value in manifest.verification.items():
        verification.add_row(name, f"{value:.1e}")
    out.print(verification)
    next_command(f"etam-edge track {bundle} VIDEO --point X,Y")


def frames_line(sizes: GraphSizes) -> str:
    """Which frames a bundle takes, and where they are resized."""
    if sizes.frame_size is None:
        return "of any size; frames and masks are resized on the host"
    height, width = sizes.frame_size
    return f"{width} x {height} pixels and no other; frames and masks are resized in the graphs"


def engines_line(bundle: Bundle) -> str:
    """What the bundle has engines for, and whether they are of its graphs."""
    from etam_edge.bundle.engines import built_for, stale

    found = []
    for platform in built_for(bundle):
        reason = stale(bundle, platform)
        found.append(str(platform) if reason is None else f"{platform}, which do not serve: {reason}")
    return "; ".join(found) or f"none; build them where they will run: etam-edge build {bundle.path}"


def recipe_lines(manifest: Manifest) -> list[str]:
    """Which regions have which precision, on which clips that rests, and what was left out."""
    by_precision: dict[str, list[str]] = {}
    for name, precision in manifest.recipe.regions.items():
        by_precision.setdefault(precision, []).append(name)
    lines = [f"{precision}: {', '.join(names)}" for precision, names in by_precision.items()]
    calibration = manifest.calibration
    if calibration and calibration.clips:
        clips = ", ".join(clip.name for clip in calibration.clips)
        purpose = "calibrated" if manifest.recipe.int8_regions else "audited"
        lines.append(f"{purpose} on {calibration.frames} frames of {clips}")
    if calibration and calibration.left_float:
        lines.append(f"not quantized, though their region is int8: {', '.join(calibration.left_float)}")
    return lines
