"""`etam-edge inspect`: what a bundle is, and whether it is whole."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def inspect(
    bundle: Annotated[Path, typer.Argument(help="Directory that export wrote.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")] = False,
) -> None:
    """Show what a bundle holds, after checking every file against its hash."""
    from rich.table import Table

    from etam_edge.bundle import Bundle
    from etam_edge.cli.console import megabytes, next_command, out

    loaded = Bundle.load(bundle)
    manifest = loaded.manifest
    if as_json:
        out.print(manifest.to_json(), markup=False, end="")
        return
    spec, sizes = manifest.model, manifest.sizes
    pooling = {"none": "unpooled", "score_bias": "pooled 2x2, ln 4 on scores", "key_bias": "pooled 2x2, ln 4 on keys"}
    facts = {
        "model": f"{spec.name}, {spec.image_size} px, {pooling[spec.pooling.value]}",
        "precision": manifest.precision,
        "checkpoint": f"{manifest.checkpoint.get('name')} (sha256 {manifest.checkpoint.get('sha256') or 'not known'})",
        "approximation": manifest.approximation or "none",
        "memory": f"{sizes.conditioning_frames} conditioning + {spec.recent_frames} recent frames in "
        f"{sizes.slots(spec)} slots of {spec.memory_tokens} tokens, {sizes.pointer_slots(spec)} object pointers",
        "points a prompt": str(sizes.max_points),
        "made": f"{manifest.created} with " + ", ".join(f"{name} {text}" for name, text in manifest.versions.items()),
    }
    for name, text in facts.items():
        out.print(f"{name + ':':<17}{text}", markup=False)

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
