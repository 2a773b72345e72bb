"""`etam-edge inspect`: the contents of a bundle, and whether its files are intact."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from etam_edge.recipe import REGIONS

if TYPE_CHECKING:
    from etam_edge.bundle import Bundle
    from etam_edge.spec import GraphSizes

EARLIER_CHECKS = 5
"""Number of earlier checks that are shown."""


def inspect(
    bundle: Annotated[Path, typer.Argument(help="Directory of a bundle.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")] = False,
    verify: Annotated[
        bool, typer.Option(help="Run the graphs on a fixed stream and compare their answer with the manifest's.")
    ] = False,
) -> None:
    """Show the contents of a bundle, after checking every file against its hash."""
    from rich.table import Table

    from etam_edge.bundle import Bundle
    from etam_edge.bundle.checks import CHECKS, read_checks
    from etam_edge.cli.console import megabytes, name_column, next_command, out, print_facts
    from etam_edge.workflows.check import describe_accuracy
    from etam_edge.workflows.verify import verify_answer

    loaded = Bundle.load(bundle)
    found = verify_answer(loaded) if verify else None
    manifest = loaded.manifest
    if as_json:
        out.print(manifest.to_json(), end="")
        return
    spec, sizes, recipe = manifest.model, manifest.sizes, manifest.recipe
    pooling = {"none": "unpooled", "score_bias": "pooled 2x2, ln 4 on scores", "key_bias": "pooled 2x2, ln 4 on keys"}
    check = f"{shlex.join(['etam-edge', 'check', str(bundle)])} --reference FP32_BUNDLE --clips DIR"
    versions = ", ".join(f"{name} {text}" for name, text in manifest.versions.items())
    facts = {
        "model": f"{spec.name}, {spec.image_size} px, {pooling[spec.pooling.value]}",
        "precision": manifest.precision,
        "checkpoint": f"{manifest.checkpoint.name} (sha256 {manifest.checkpoint.sha256 or 'not known'})",
        "approximation": manifest.approximation or "none",
        "memory": f"{sizes.conditioning_frames} conditioning + {spec.recent_frames} recent frames in "
        f"{sizes.slots(spec)} slots of {spec.memory_tokens} tokens, {sizes.pointer_slots(spec)} object pointers",
        "points per prompt": str(sizes.max_points),
        "frames": frames_line(sizes),
        "windows at the border": "padded to whole windows" if sizes.padded_windows else "computed without padding",
        "cross-attention": attention_line(sizes),
        "accuracy": describe_accuracy(manifest.accuracy) if manifest.accuracy else f"not checked; run: {check}",
        "engines": engines_line(loaded),
        "answer": answer_line(loaded, found),
        "created": f"{manifest.created} with {versions}",
    }
    print_facts(facts.items())
    earlier = read_checks(bundle)[:-1]
    for one in reversed(earlier[-EARLIER_CHECKS:]):
        out.print(f"  earlier check: {describe_accuracy(one)}")
    if len(earlier) > EARLIER_CHECKS:
        out.print(f"  and {len(earlier) - EARLIER_CHECKS} more in {bundle / CHECKS}")

    regions = Table(
        name_column("region", recipe.regions),
        "what it is",
        "precision",
        "largest activation",
        title=f"recipe (float precision {recipe.float_precision})" if recipe.int8_regions else "recipe",
    )
    largest = manifest.calibration.largest if manifest.calibration else {}
    for name, precision in recipe.regions.items():
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


def attention_line(sizes: GraphSizes) -> str:
    """How memory cross-attention is computed."""
    return {
        "whole": "scores of all queries at once",
        "blocks": f"scores in {sizes.query_blocks} blocks of queries",
        "fused": "in the form that TensorRT fuses",
    }[sizes.cross_attention.value]


def frames_line(sizes: GraphSizes) -> str:
    """Which frames a bundle takes, and where they are resized."""
    if sizes.frame_size is None:
        return "of any size; frames and masks are resized on the host"
    height, width = sizes.frame_size
    return f"{width} x {height} pixels and no other; frames and masks are resized in the graphs"


def answer_line(bundle: Bundle, difference: float | None) -> str:
    """Whether the graphs answer as the manifest says.

    Args:
        bundle: that was loaded.
        difference: of its answer from the manifest's; None if it was not computed.
    """
    if difference is not None:
        return f"to a fixed stream as in the manifest (relative difference {difference:.1e})"
    if bundle.manifest.answer is None:
        return "none in the manifest, which an earlier version wrote"
    return f"not verified; run: {shlex.join(['etam-edge', 'inspect', '--verify', str(bundle.path)])}"


def engines_line(bundle: Bundle) -> str:
    """What the bundle has engines for, and whether they are of its graphs."""
    from etam_edge.bundle.engines import built_for, stale

    found = []
    for platform in built_for(bundle):
        reason = stale(bundle, platform)
        found.append(str(platform) if reason is None else f"{platform}, unusable: {reason}")
    return "; ".join(found) or f"none; build them where they will run: etam-edge build {bundle.path}"
