"""`bundle.json`: what the graphs of a bundle are, what they read and write, and where they come from."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from etam_edge.bundle.signatures import GraphEntry
from etam_edge.bundle.summaries import Accuracy, Answer, Calibration, Checkpoint
from etam_edge.errors import BundleError, EtamError, shown, why
from etam_edge.json_fields import check_fields
from etam_edge.printable import storable
from etam_edge.recipe import FP32, MIXED, PRECISIONS, Recipe
from etam_edge.regular_files import parse_json
from etam_edge.spec import GraphSizes, ModelSpec

MANIFEST = "bundle.json"
MAX_GRAPHS = 16
SCHEMA_VERSION = 2
"""Major version of the schema. Other major versions are refused, except version 1: it is version 2 without `recipe`,
`calibration` and `accuracy`, and its graphs are fp32.

A minor version, written as "2.2", adds fields that a reader may ignore to the manifest, to the entry of a graph or to a
summary. They are kept as `extra` and written back. A field that changes how a bundle runs (in the model, the sizes, the
recipe or a signature) needs a new major version."""
SCHEMA_MINOR = 1
"""Minor version that is written. Version 2.1 added `sha256`, the hash of the manifest itself, and `answer`."""


@dataclass(frozen=True)
class Manifest:
    """The content of `bundle.json`.

    Attributes:
        model: every size of the model.
        sizes: sizes of the graphs that do not follow from the model.
        precision: "fp32", "fp16", "int8" or "mixed".
        recipe: precision of each region of the model.
        graphs: by name.
        checkpoint: the weights.
        approximation: how the graphs differ from the checkpoint's own model on purpose, or None.
        verification: largest difference of each output of the fp32 graphs from the PyTorch model.
        calibration: the measurements that the precisions are based on; None for fp32.
        accuracy: the result of the last accuracy check; None before the first.
        answer: what the graphs answer to a fixed stream; None in bundles of earlier versions.
        versions: of the packages that exported the bundle, by name.
        created: time of the export, ISO 8601 in UTC.
        schema_minor: minor version of the schema of the file.
        extra: fields of the file that this version does not know.
    """

    model: ModelSpec
    sizes: GraphSizes
    precision: str
    recipe: Recipe
    graphs: dict[str, GraphEntry]
    checkpoint: Checkpoint
    approximation: str | None = None
    verification: dict[str, float] = field(default_factory=dict)
    calibration: Calibration | None = None
    accuracy: Accuracy | None = None
    answer: Answer | None = None
    versions: dict[str, str] = field(default_factory=dict)
    created: str = ""
    schema_minor: int = 0
    extra: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """The text of `bundle.json`."""
        fields = {
            "schema": f"{SCHEMA_VERSION}.{max(self.schema_minor, SCHEMA_MINOR)}",
            "model": self.model.to_dict(),
            "sizes": self.sizes.to_dict(),
            "precision": self.precision,
            "recipe": self.recipe.to_dict(),
            "graphs": {name: entry.to_dict() for name, entry in self.graphs.items()},
            "checkpoint": self.checkpoint.to_dict(),
            "approximation": self.approximation,
            "verification": self.verification,
            "calibration": self.calibration.to_dict() if self.calibration else {},
            "accuracy": self.accuracy.to_dict() if self.accuracy else {},
            **({"answer": self.answer.to_dict()} if self.answer else {}),
            "versions": self.versions,
            "created": self.created,
            **self.extra,
        }
        return json.dumps(sealed(storable(fields)), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str, where: Path) -> Manifest:
        """Read the text of `bundle.json`.

        Args:
            text: of the file.
            where: path of the file, for error messages.

        Raises:
            BundleError: the text is not a manifest that this version can read.
        """
        try:
            fields = parse_json(text)
        except ValueError as error:
            raise BundleError(
                f"{where} is damaged: it is not JSON ({why(error)}); copy or export the bundle again"
            ) from None
        schema = fields.pop("schema", None) if isinstance(fields, dict) else None
        if schema is None:
            raise BundleError(
                f"{where} is not a bundle manifest: it has no 'schema'; name a directory that `etam-edge export` wrote"
            )
        minor = _minor_version(schema, where)
        stated = fields.pop("sha256", None)
        if (stated is not None or minor) and stated != _sha256({"schema": schema, **fields}):
            raise BundleError(
                f"{where} was changed or damaged after the bundle was written (its sha256 differs); "
                "copy or export the bundle again"
            )
        if schema == 1:
            fields["recipe"] = Recipe.uniform(FP32).to_dict()
        try:
            return cls._from_fields(fields, minor)
        except (KeyError, TypeError, AttributeError, ValueError, EtamError) as error:
            reason = f"{why(error)} is missing" if isinstance(error, KeyError) else why(error)
            raise BundleError(f"{where} is damaged or foreign ({reason}); copy or export the bundle again") from error

    @classmethod
    def _from_fields(cls, fields: dict[str, Any], minor: int) -> Manifest:
        known = {one.name for one in dataclasses.fields(cls)} - {"schema_minor", "extra"}
        check_fields(cls, {name: value for name, value in fields.items() if name in known})
        calibration, accuracy, answer = fields.get("calibration"), fields.get("accuracy"), fields.get("answer")
        if fields["precision"] not in (*PRECISIONS, MIXED):
            raise ValueError(f"precision is {shown(fields['precision'])}")
        if len(fields["graphs"]) > MAX_GRAPHS:
            raise ValueError(f"it lists {len(fields['graphs'])} graphs")
        return cls(
            model=ModelSpec.from_dict(fields["model"]),
            sizes=GraphSizes(**fields["sizes"]),
            precision=fields["precision"],
            recipe=Recipe.from_dict(fields["recipe"]),
            graphs={name: GraphEntry.from_dict(entry) for name, entry in fields["graphs"].items()},
            checkpoint=Checkpoint.from_dict(fields["checkpoint"]),
            approximation=fields.get("approximation"),
            verification=fields.get("verification", {}),
            calibration=Calibration.from_dict(calibration) if calibration else None,
            accuracy=Accuracy.from_dict(accuracy) if accuracy else None,
            answer=Answer.from_dict(answer) if answer else None,
            versions=fields.get("versions", {}),
            created=fields.get("created", ""),
            schema_minor=minor,
            extra={name: value for name, value in fields.items() if name not in known},
        )


def sealed(fields: dict[str, Any]) -> dict[str, Any]:
    """The JSON object of a manifest with its own hash as `sha256`."""
    content = {name: value for name, value in fields.items() if name != "sha256"}
    return {**content, "sha256": _sha256(content)}


def _sha256(fields: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _brief(schema: Any) -> str:
    return schema if isinstance(schema, str) and len(schema) < 20 else shown(schema)


def _minor_version(schema: Any, where: Path) -> int:
    """The minor version of the schema.

    Raises:
        BundleError: the major version is one that this etam-edge cannot read.
    """
    if schema in (1, SCHEMA_VERSION) and not isinstance(schema, bool):
        return 0
    found = re.fullmatch(rf"{SCHEMA_VERSION}\.([0-9]{{1,6}})", schema) if isinstance(schema, str) else None
    if not found:
        raise BundleError(
            f"{where} has schema version {_brief(schema)}, and this etam-edge reads version {SCHEMA_VERSION}; "
            "export the bundle again with this version, or upgrade etam-edge"
        )
    return int(found[1])
