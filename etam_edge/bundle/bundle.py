"""The bundle: a directory that can be copied to the device whole, and the contract between exporters and runtimes.

When a bundle is loaded, its manifest and every graph are checked against their hashes, and the graphs against what the
manifest says of them. A bundle is written to a temporary directory and
renamed, so that a half-written one is never read.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

from etam_edge import atomic
from etam_edge.bundle.checks import append_check
from etam_edge.bundle.hashes import sha256_of
from etam_edge.bundle.manifest import MANIFEST, Manifest
from etam_edge.bundle.onnx_structure import read_structure
from etam_edge.bundle.signatures import GRAPH_NAMES, GraphEntry, signature_problems
from etam_edge.bundle.summaries import Accuracy
from etam_edge.errors import BundleError
from etam_edge.recipe import FP16, INT8
from etam_edge.regular_files import checked_path, open_regular
from etam_edge.spec import MODELS

MAX_MANIFEST = 16 << 20
"""Bytes of a manifest. A mixed one with many trials has some 200 kB."""


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk, whose files match its manifest.

    Attributes:
        path: its directory.
        manifest: the content of its `bundle.json`.
    """

    path: Path
    manifest: Manifest

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Bundle:
        """Read a bundle and check every file against its hash, and every graph against its signature.

        Raises:
            BundleError: there is no bundle at `path`, or it is damaged, changed, foreign or of another schema version.
        """
        path = checked_path(path, "bundle")
        atomic.recover_directory(path)
        manifest_path = path / MANIFEST
        try:
            if not os.path.lexists(path):
                raise BundleError(f"there is no bundle at {path}; make one with: {_export_command(path)}")
            if not manifest_path.is_file():
                raise BundleError(
                    f"{path} is not a bundle: it has no {MANIFEST}; name a directory that `etam-edge export` wrote"
                )
            with open_regular(manifest_path) as file:
                data = file.read(MAX_MANIFEST + 1)
            if len(data) > MAX_MANIFEST:
                raise BundleError(f"{manifest_path} is larger than {MAX_MANIFEST} bytes; export the bundle again")
            text = data.decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BundleError(f"{manifest_path} cannot be read ({error}); copy or export the bundle again") from error
        bundle = cls(path, Manifest.from_json(text, manifest_path))
        bundle._check_files()
        return bundle

    def graph_path(self, name: str) -> Path:
        """Path of the ONNX file of a graph."""
        return self.path / self.manifest.graphs[name].file

    @property
    def size(self) -> int:
        """Bytes of all graphs."""
        return sum(self.graph_path(name).stat().st_size for name in self.manifest.graphs)

    @property
    def identity(self) -> str:
        """A hash over all graphs. Bundles with equal hashes give equal outputs."""
        text = ",".join(f"{name}:{self.manifest.graphs[name].sha256}" for name in GRAPH_NAMES)
        return hashlib.sha256(text.encode()).hexdigest()

    def check_frame_shape(self, shape: tuple[int, int], where: str) -> None:
        """Refuse frames of another size (H, W) than the graphs take; see `GraphSizes.check_frame_shape`.

        Raises:
            InputError: the frames have another size.
        """
        self.manifest.sizes.check_frame_shape(shape, where, str(self.path))

    def copy_to(self, path: Path, overwrite: bool = False) -> Bundle:
        """Copy the bundle, atomically, and return the copy.

        Raises:
            InputError: the target is taken, or the disk is full or cannot be written.
        """
        with writing(path, overwrite) as draft:
            shutil.copytree(self.path, draft, dirs_exist_ok=True)
        return Bundle(path, self.manifest)

    def store_accuracy(self, accuracy: Accuracy) -> Bundle:
        """Store the result of an accuracy check in the manifest on disk and in `checks.jsonl`.

        Returns:
            the bundle with it.

        Raises:
            BundleError: another bundle has taken this one's place since it was loaded, or the files cannot be written.
                They stay as they were.
        """
        try:
            with atomic.locked_directory(self.path):
                text = (self.path / MANIFEST).read_text(encoding="utf-8")
                current = Bundle(self.path, Manifest.from_json(text, self.path / MANIFEST))
                if current.identity != self.identity:
                    raise BundleError(f"{self.path} was exported again while it was checked; check it again")
                append_check(self.path, accuracy, current.manifest.accuracy)
                manifest = replace(current.manifest, accuracy=accuracy)
                with atomic.atomic_file(self.path / MANIFEST) as file:
                    file.write(manifest.to_json().encode())
        except OSError as error:
            raise BundleError(f"{self.path / MANIFEST} cannot be written ({error.strerror})") from error
        return Bundle(self.path, manifest)

    def _check_files(self) -> None:
        where, graphs = self.path / MANIFEST, self.manifest.graphs
        missing = [name for name in GRAPH_NAMES if name not in graphs]
        if missing:
            raise BundleError(f"{where} lists no graph {', '.join(missing)}; export the bundle again")
        signatures = {name: entry.signature for name, entry in graphs.items()}
        problems = signature_problems(signatures, self.manifest.model, self.manifest.sizes)
        if problems:
            raise BundleError(
                f"{where} contradicts itself: {'; '.join(problems[:3])} are not those of its model and sizes; "
                "copy or export the bundle again"
            )
        for name, entry in graphs.items():
            self._check_graph(name, entry)

    def _check_graph(self, name: str, entry: GraphEntry) -> None:
        path = self.path / entry.file
        try:
            file = path.resolve()
            inside = self.path.resolve() in file.parents
        except (OSError, ValueError, RuntimeError) as error:  # A name that no file can have, or a loop of links.
            raise BundleError(f"graph '{name}' of {self.path} has an unusable file name ({error})") from error
        if not inside:
            raise BundleError(f"graph '{name}' of {self.path} lies outside the bundle ({entry.file}); export it again")
        try:
            if not file.is_file():
                raise BundleError(f"{path} is missing; copy or export the bundle again")
            found = sha256_of(file)
            structure = read_structure(file) if found == entry.sha256 else None
        except OSError as error:
            raise BundleError(f"{path} cannot be read ({error.strerror}); copy or export the bundle again") from error
        except ValueError as error:
            raise BundleError(f"{path} is damaged ({error}); export the bundle again") from error
        if structure is None:
            raise BundleError(
                f"{path} is not the file that was exported (its sha256 differs); copy or export the bundle again"
            )
        if structure.problems:
            raise BundleError(
                f"{path} is not run: {'; '.join(structure.problems)}, and the graphs of a bundle are static and whole; "
                "export the bundle again"
            )
        differing = entry.signature.differences(structure.signature)
        if differing:
            raise BundleError(
                f"{path} has other inputs or outputs than its manifest says ({', '.join(differing[:4])}); "
                "export the bundle again"
            )


def _export_command(path: Path) -> str:
    """The command that makes a bundle of this name, which tells the model where it begins with one."""
    model = next((name for name in sorted(MODELS, key=len, reverse=True) if path.name.startswith(name)), "MODEL")
    precision = next((f" --precision {one}" for one in (FP16, INT8) if path.name.endswith(f"-{one}")), "")
    how = " (etam-edge models lists the models)" if model == "MODEL" else ""
    return f"etam-edge export --model {model}{precision} --output {path}{how}"


def check_target(path: Path, overwrite: bool) -> None:
    """Refuse a path where a bundle must not be written, before any work is done.

    Raises:
        InputError: something is there already, or the parent folder cannot be written.
    """
    atomic.check_target(path, overwrite, MANIFEST, "bundle")


def writing(path: Path, overwrite: bool = False) -> AbstractContextManager[Path]:
    """A directory to write a bundle to, which is renamed to `path` when the block ends without an error.

    Raises:
        InputError: the target is taken, or the disk is full or cannot be written.
    """
    return atomic.atomic_directory(path, overwrite, MANIFEST, "bundle")
