"""The history of a bundle's accuracy checks: `checks.jsonl`, one verdict a line, the latest one last.

The manifest holds the latest verdict alone. The file is no part of what a bundle computes, and is not hashed.
"""

from __future__ import annotations

import json
from pathlib import Path

from etam_edge import atomic
from etam_edge.bundle.summaries import Accuracy
from etam_edge.printable import storable

CHECKS = "checks.jsonl"


def read_checks(bundle: Path) -> list[Accuracy]:
    """All verdicts of a bundle, the latest one last; lines that cannot be read are left out."""
    try:
        lines = (bundle / CHECKS).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        try:
            found.append(Accuracy.from_dict(json.loads(line)))
        except (ValueError, TypeError, AttributeError, RecursionError):
            continue
    return found


def append_check(bundle: Path, verdict: Accuracy, previous: Accuracy | None) -> None:
    """Add a verdict; the caller holds `atomic.locked_directory`.

    Args:
        bundle: its directory.
        verdict: to add.
        previous: the manifest's, for a bundle that was checked before there was a history.

    Raises:
        OSError: the file cannot be written.
    """
    try:
        earlier = (bundle / CHECKS).read_bytes()
    except FileNotFoundError:
        earlier = b"" if previous is None else _line(previous)
    with atomic.atomic_file(bundle / CHECKS) as file:
        file.write(earlier + _line(verdict))


def _line(verdict: Accuracy) -> bytes:
    return json.dumps(storable(verdict.to_dict())).encode() + b"\n"
