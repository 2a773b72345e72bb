"""The bundle: a directory that goes to the device whole, and the contract between exporters and runtimes.

`bundle.json` says what the graphs are, what they read and write, and where they come from; every graph is held to its
hash. A bundle is written beside its place and renamed, so that a half-written one is never read.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from etam_edge import atomic
from etam_edge.errors import BundleError, EtamError
from etam_edge.recipe import Recipe
from etam_edge.spec import GraphSizes, ModelSpec

SCHEMA_VERSION = 2
MANIFEST = "bundle.json"
GRAPH_NAMES = ("encode", "prompt", "remember", "track")
OBJECTS = "objects"
"""Name of the only dimension that is not a number: the leading object axis."""


@dataclass(frozen=True)
class TensorSpec:
    """Name, NumPy type name and shape of one input or output of a graph."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def sized(self, objects: int) -> tuple[int, ...]:
        """The shape for a number of objects."""
        return tuple(objects if size == OBJECTS else int(size) for size in self.shape)


@dataclass(frozen=True)
class GraphSignature:
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True)
class GraphEntry:
    """One graph of a bundle: its file (relative to the bundle), hash, opset and signature."""

    file: str
    sha256: str
    opset: int
    signature: GraphSignature


@dataclass(frozen=True)
class Manifest:
    """What `bundle.json` holds.

    Attributes:
        model: every size of the model.
        sizes: the graphs' own fixed sizes.
        precision: "fp32", "fp16", "int8" or "mixed".
        recipe: which precision each region of the model has.
        graphs: by verb.
        checkpoint: `name` and `sha256` of the weights.
        approximation: how the graphs differ from the checkpoint's own model on purpose, or None.
        verification: largest differences of the fp32 graphs from the PyTorch model, by output.
        calibration: what the precisions rest on: clips, frames, the largest activation of each region; empty for fp32.
        accuracy: the verdict of the last accuracy-drop check; empty before the first.
        versions: of the packages that made the bundle.
        created: when, ISO 8601 in UTC.
    """

    model: ModelSpec
    sizes: GraphSizes
    precision: str
    recipe: Recipe
    graphs: dict[str, GraphEntry]
    checkpoint: dict[str, str]
    approximation: str | None = None
    verification: dict[str, float] = field(default_factory=dict)
    calibration: dict[str, Any] = field(default_factory=dict)
    accuracy: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    created: str = ""

    def to_json(self) -> str:
        parts = {"model": self.model.to_dict(), "sizes": self.sizes.to_dict(), "recipe": self.recipe.to_dict()}
        fields = {**asdict(self), **parts}
        return json.dumps({"schema": SCHEMA_VERSION, **fields}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str, where: Path) -> Manifest:
        """
        Raises:
            BundleError: the text is no manifest that this version understands.
        """
        try:
            fields = json.loads(text)
        except ValueError as error:
            raise BundleError(
                f"{where} is damaged: it is not JSON ({error}); copy or export the bundle again"
            ) from None
        schema = fields.pop("schema", None) if isinstance(fields, dict) else None
        if schema is None:
            raise BundleError(f"{where} is no bundle manifest: it has no 'schema'; name a directory that export wrote")
        if schema != SCHEMA_VERSION:
            raise BundleError(
                f"{where} has schema version {schema}, and this etam-edge reads version {SCHEMA_VERSION}; "
                "export the bundle again with this version, or upgrade etam-edge"
            )
        try:
            return cls(
                **{
                    **fields,
                    "model": ModelSpec.from_dict(fields["model"]),
                    "sizes": GraphSizes(**fields["sizes"]),
                    "recipe": Recipe.from_dict(fields["recipe"]),
                    "graphs": {name: _graph_entry(entry) for name, entry in fields["graphs"].items()},
                }
            )
        except (KeyError, TypeError, AttributeError, ValueError, EtamError) as error:
            raise BundleError(f"{where} is damaged or foreign ({error}); copy or export the bundle again") from error


def _graph_entry(fields: dict[str, Any]) -> GraphEntry:
    def tensors(rows: list[dict[str, Any]]) -> tuple[TensorSpec, ...]:
        return tuple(TensorSpec(row["name"], row["dtype"], tuple(row["shape"])) for row in rows)

    signature = fields["signature"]
    return GraphEntry(
        file=str(fields["file"]),
        sha256=str(fields["sha256"]),
        opset=int(fields["opset"]),
        signature=GraphSignature(tensors(signature["inputs"]), tensors(signature["outputs"])),
    )


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk whose files are what its manifest says."""

    path: Path
    manifest: Manifest

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Bundle:
        """Read a bundle and hold every graph to its hash.

        Raises:
            BundleError: there is no bundle at `path`, or it is damaged, changed, foreign or of another schema.
        """
        path = Path(path)
        if not path.exists():
            raise BundleError(f"there is no bundle at {path}; make one with: etam-edge export --output {path}")
        manifest_path = path / MANIFEST
        if not manifest_path.is_file():
            raise BundleError(f"{path} is no bundle: it holds no {MANIFEST}; name a directory that export wrote")
        try:
            text = manifest_path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BundleError(f"{manifest_path} cannot be read ({error}); copy or export the bundle again") from error
        bundle = cls(path, Manifest.from_json(text, manifest_path))
        bundle._check_files()
        return bundle

    def graph_path(self, name: str) -> Path:
        return self.path / self.manifest.graphs[name].file

    @property
    def identity(self) -> str:
        """A hash over all graphs: two bundles with the same one answer the same."""
        text = ",".join(f"{name}:{self.manifest.graphs[name].sha256}" for name in GRAPH_NAMES)
        return hashlib.sha256(text.encode()).hexdigest()

    def check_frame_shape(self, shape: tuple[int, int], where: str) -> None:
        """Refuse frames of another (H, W) than the graphs take, as `GraphSizes.check_frame_shape` does.

        Raises:
            InputError: the size is another one.
        """
        self.manifest.sizes.check_frame_shape(shape, where, str(self.path))

    def copy_to(self, path: Path, overwrite: bool = False) -> Bundle:
        """The same bundle at another place, all of it or nothing.

        Raises:
            InputError: the target is taken, or the disk is full or cannot be written.
        """
        with writing(path, overwrite) as draft:
            shutil.copytree(self.path, draft, dirs_exist_ok=True)
        return Bundle(path, self.manifest)

    def store_accuracy(self, accuracy: dict[str, Any]) -> Bundle:
        """The same bundle with the verdict of a check in its manifest, on disk too.

        Raises:
            BundleError: the manifest cannot be written; it stays as it was.
        """
        manifest = replace(self.manifest, accuracy=accuracy)
        try:
            with atomic.atomic_file(self.path / MANIFEST) as file:
                file.write(manifest.to_json().encode())
        except OSError as error:
            raise BundleError(f"{self.path / MANIFEST} cannot be written ({error.strerror})") from error
        return Bundle(self.path, manifest)

    def _check_files(self) -> None:
        missing = [name for name in GRAPH_NAMES if name not in self.manifest.graphs]
        if missing:
            raise BundleError(f"{self.path / MANIFEST} names no graph {', '.join(missing)}; export the bundle again")
        for name, entry in self.manifest.graphs.items():
            file = (self.path / entry.file).resolve()
            if self.path.resolve() not in file.parents:
                raise BundleError(
                    f"graph '{name}' of {self.path} lies outside the bundle ({entry.file}); export it again"
                )
            if not file.is_file():
                raise BundleError(f"{self.path / entry.file} is missing; copy or export the bundle again")
            if sha256_of(file) != entry.sha256:
                raise BundleError(
                    f"{self.path / entry.file} is not the file that was exported (its sha256 differs); "
                    "copy or export the bundle again"
                )


def sha256_of(path: Path) -> str:
    """The sha256 of a file, in hexadecimal.

    Raises:
        BundleError: the file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    except OSError as error:
        raise BundleError(f"{path} cannot be read ({error.strerror}); check the disk and its permissions") from error
    return digest.hexdigest()


def check_target(path: Path, overwrite: bool) -> None:
    """Refuse a place where a bundle must not be written, before any work is done.

    Raises:
        InputError: something is there already, or the parent folder cannot be written.
    """
    atomic.check_target(path, overwrite, MANIFEST, "bundle")


def writing(path: Path, overwrite: bool = False) -> AbstractContextManager[Path]:
    """A folder to fill with a bundle, which takes its place at `path` when the block ends without an error.

    Raises:
        InputError: the target is taken, or the disk is full or cannot be written.
    """
    return atomic.atomic_directory(path, overwrite, MANIFEST, "bundle")
