"""`etam-edge doctor`: what this machine is, what is installed on it, and what it can do."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from etam_edge.workflows.doctor import Diagnosis


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False) -> None:
    """Show what this machine has and what etam-edge can do on it."""
    from etam_edge.workflows.doctor import CAN, PACKAGES, diagnose

    found = diagnose()
    if as_json:
        typer.echo(json.dumps(found.to_dict(), indent=1))
        return

    from etam_edge.cli.console import next_command, out

    out.print(_table(found))
    for package in PACKAGES:
        installed = found.packages[package.name]
        if not installed.usable:
            what = "is missing" if installed.version is None else installed.problem
            out.print(f"{package.name} {what}; it is for {package.enables}: {package.install}")
    for name, verdict in found.verdicts.items():
        answer = "yes" if verdict.able else "no"
        out.print(f"{CAN[name]}: {', '.join(filter(None, (answer, verdict.reason)))}")
    next_command(found.next_command)


def _table(found: Diagnosis) -> Table:
    from rich.table import Table

    machine = found.machine
    table = Table("what", "found", title=f"etam-edge {found.version or ''}".strip())
    rows = {
        "system": machine.system,
        "Python": machine.python,
        "CPU": f"{machine.cpu} ({machine.instruction_set}), {machine.cores} cores",
        "memory": f"{_gibibytes(machine.memory)}, {_gibibytes(machine.memory_available)} available",
        "Jetson": _jetson(found),
        "CUDA driver": machine.cuda_driver or "none",
        "GPU": "\n".join(machine.gpus) or "none",
    }
    for name, text in rows.items():
        table.add_row(name, text)
    table.add_section()
    for name, installed in found.packages.items():
        parts = [installed.version or "missing", *installed.detail]
        table.add_row(name, "\n".join([*parts, installed.problem] if installed.problem else parts))
    return table


def _jetson(found: Diagnosis) -> str:
    machine = found.machine
    if machine.l4t is None:
        return "no"
    return f"{machine.board or 'yes'}, JetPack {machine.jetpack or 'unknown'}, Jetson Linux {machine.l4t}"


def _gibibytes(size: int | None) -> str:
    return "unknown" if size is None else f"{size / 2**30:.1f} GiB"
