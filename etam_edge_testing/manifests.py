"""Manifests changed by hand, as somebody does who knows the format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from etam_edge.bundle import MANIFEST, sealed


def manifest_fields(path: Path) -> dict[str, Any]:
    """Return the JSON object in the manifest of the bundle at `path`."""
    fields: dict[str, Any] = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    return fields


def write_manifest(path: Path, fields: dict[str, Any]) -> None:
    """Write the manifest of the bundle at `path`, with the hash of these fields."""
    (path / MANIFEST).write_text(json.dumps(sealed(fields)), encoding="utf-8")
