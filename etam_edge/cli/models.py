"""`etam-edge models`: the models that can be exported."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from etam_edge.spec import MODELS, NANO, Pooling

POOLING = {Pooling.NONE: "no", Pooling.SCORE_BIAS: "2x2, scores", Pooling.KEY_BIAS: "2x2, keys"}
"""How memory is pooled, and what ln 4 is added to."""


def models(as_json: Annotated[bool, typer.Option("--json", help="Print the list as JSON.")] = False) -> None:
    """List the models: sizes, pooling, parameters, and whether the checkpoint is on this machine."""
    from etam_edge.workflows.models import SUGGESTED, list_models, missing_packages

    rows = list_models()
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return

    from rich.table import Table

    from etam_edge.cli.console import next_command, out

    caption = "pooled: each memory frame is averaged 2x2, ln 4 added to scores or keys"
    table = Table("model", "image", "pooled", "parameters", "checkpoint", caption=caption)
    # Narrow terminals fold the other columns: a name can always be copied.
    table.columns[0].min_width = max(len(name) for name in MODELS)
    for row in rows:
        table.add_row(
            row["name"],
            f"{row['image_size']} px",
            POOLING[Pooling(row["pooling"])],
            f"{row['parameters'] / 1e6:.1f} M",
            _place(row),
        )
    out.print(table)
    missing = missing_packages()
    if missing:
        out.print(f"Exporting needs {' and '.join(missing)}, not installed here; bundles are copied from where it is.")
        next_command('pip install "etam-edge[export]"   (or copy a bundle here: etam-edge track BUNDLE VIDEO)')
        return
    if not all(row["checkpoint"] for row in rows):
        out.print("export downloads a checkpoint that is not cached; without a network, use --checkpoint FILE.")
    next_command(f"etam-edge export --model {SUGGESTED}")


def _place(row: dict[str, Any]) -> str:
    if not row["checkpoint"]:
        return "not cached"
    return "in the package" if row["name"] == NANO.name else "cached"
