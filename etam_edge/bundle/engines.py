"""Engines of a bundle: files that one TensorRT made of its graphs for one GPU, each with a sidecar that says so.

`engines/<fingerprint>/<graph>.engine` with `<graph>.json` beside it. Exporters write them, runtimes read them; what
does not fit the machine, the TensorRT or the graph is refused by name, with the command that mends it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from etam_edge import atomic
from etam_edge.bundle import GRAPH_NAMES, Bundle, sha256_of
from etam_edge.errors import BundleError, InputError, shown, why
from etam_edge.json_fields import check_fields
from etam_edge.regular_files import read_json

FOLDER = "engines"
SIDECAR_SCHEMA = 1
TENSORRT, TENSORRT_RTX = "tensorrt", "tensorrt-rtx"
FLAVOURS = (TENSORRT, TENSORRT_RTX)
ONE_OBJECT = ("remember",)
"""Graphs that are run for one object at a time. Their engines take one, which needs less memory."""


@dataclass(frozen=True)
class EnginePlatform:
    """What an engine belongs to.

    Attributes:
        flavour: "tensorrt" or "tensorrt-rtx".
        tensorrt: its version, for example "10.3.0".
        gpu: name of the GPU; "any" for TensorRT for RTX, whose engines fit every GPU of their compute capability.
        compute_capability: (major, minor).
        multiprocessors: of the GPU; 0 for "any". AGX Orin, Orin NX and Orin Nano may have one GPU name and one compute
            capability, and so may the instances of a divided GPU: multiprocessors and memory tell them apart.
        memory_gib: the GPU's memory in GiB, to the nearest multiple of 4, since the system reserves a part of it; 0
            for "any".
        board: model of the board, as the device tree of a Jetson names it; "" elsewhere.
    """

    flavour: str
    tensorrt: str
    gpu: str
    compute_capability: tuple[int, int]
    multiprocessors: int = 0
    memory_gib: int = 0
    board: str = ""

    @property
    def fingerprint(self) -> str:
        """Name of the folder of its engines."""
        major, minor = self.compute_capability
        gpu = re.sub(r"[^a-z0-9]+", "-", self.gpu.lower()).strip("-")
        size = f"-{self.multiprocessors}mp-{self.memory_gib}gib" if self.multiprocessors else ""
        return f"{self.flavour}-{self.tensorrt}-sm{major}{minor}-{gpu}{size}"

    def __str__(self) -> str:
        major, minor = self.compute_capability
        details = [self.board] if self.board else []
        if self.multiprocessors:
            details += [f"{self.multiprocessors} multiprocessors", f"{self.memory_gib} GiB"]
        details.append(f"compute capability {major}.{minor}")
        return f"{self.flavour} {self.tensorrt} on {self.gpu} ({', '.join(details)})"


@dataclass(frozen=True)
class Sidecar:
    """What `<graph>.json` says of an engine.

    Attributes:
        platform: what it belongs to.
        graph_sha256: of the graph that it was made from.
        sha256: of the engine file.
        size: of the engine file in bytes.
        max_objects: most objects that one call takes; 1 for the graphs of `ONE_OBJECT`.
        precision: of the bundle.
        device_memory: bytes that an execution context needs beside weights and tensors, 0 where it is not known.
        etam_edge: version that built it.
        created: ISO 8601 in UTC.
    """

    platform: EnginePlatform
    graph_sha256: str
    sha256: str
    size: int
    max_objects: int
    precision: str
    device_memory: int
    etam_edge: str
    created: str

    def to_json(self) -> str:
        fields = asdict(self)
        # The file keeps the key of its first version.
        return json.dumps({"schema": SIDECAR_SCHEMA, "builder": fields.pop("platform"), **fields}, indent=1) + "\n"

    @classmethod
    def load(cls, path: Path) -> Sidecar:
        """
        Raises:
            BundleError: it is missing, damaged or of another schema.
        """
        try:
            fields = read_json(path)
            schema = fields.pop("schema")
            if schema != SIDECAR_SCHEMA or isinstance(schema, bool):
                raise BundleError(
                    f"{path} has schema version {shown(schema)}, and this etam-edge reads {SIDECAR_SCHEMA}; {HOW}"
                )
            platform = fields.pop("builder")
            check_fields(EnginePlatform, platform)
            capability = tuple(platform.pop("compute_capability"))
            if len(capability) != 2:
                raise ValueError(f"compute_capability is {shown(capability)}")
            check_fields(cls, fields)
            sidecar = cls(platform=EnginePlatform(**platform, compute_capability=capability), **fields)
            if sidecar.max_objects < 1 or sidecar.size < 0 or sidecar.device_memory < 0:
                raise ValueError("a number is negative or zero")
            return sidecar
        except BundleError:
            raise
        except OSError as error:
            raise BundleError(f"{path} is missing or damaged ({error.strerror}); {HOW}") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BundleError(f"{path} is missing or damaged ({why(error)}); {HOW}") from error


HOW = "build the engines again with: etam-edge build BUNDLE"


def engine_path(bundle: Bundle, platform: EnginePlatform, graph: str) -> Path:
    return bundle.path / FOLDER / platform.fingerprint / f"{graph}.engine"


def timing_cache_path(bundle: Bundle, platform: EnginePlatform) -> Path:
    """Where timings of this platform are kept between builds."""
    return bundle.path / FOLDER / f"{platform.fingerprint}.timing"


@contextmanager
def writing_engines(bundle: Bundle, platform: EnginePlatform, overwrite: bool) -> Iterator[Path]:
    """A folder to fill with engines and sidecars; it takes its place when the block ends without an error.

    Raises:
        InputError: engines are there already, or the bundle cannot be written.
    """
    target = bundle.path / FOLDER / platform.fingerprint
    if target.is_dir() and not overwrite and not stale(bundle, platform):
        raise InputError(f"{target} already holds engines of these graphs; add `overwrite=True` to build them again")
    with atomic.atomic_directory(target, True, f"{GRAPH_NAMES[0]}.json", "set of engines") as draft:
        yield draft


def stale(bundle: Bundle, platform: EnginePlatform, graphs: Sequence[str] = GRAPH_NAMES) -> str | None:
    """Why the engines of this platform cannot be used for these graphs of this bundle, or None if they can.

    Looks at sidecars only; `check_engines` holds the files to their hashes.
    """
    for name in graphs:
        path = engine_path(bundle, platform, name)
        if not path.is_file():
            return f"there is no {path}"
        try:
            sidecar = Sidecar.load(path.with_suffix(".json"))
        except BundleError as error:
            return str(error)
        if sidecar.platform != platform:
            return f"{path} was built by {sidecar.platform}, and here is {platform}"
        if sidecar.graph_sha256 != bundle.manifest.graphs[name].sha256:
            return f"{path} was built from another {name} graph than the bundle holds now"
    return None


def check_engines(bundle: Bundle, platform: EnginePlatform, graphs: Sequence[str] = GRAPH_NAMES) -> dict[str, Sidecar]:
    """Sidecars of engines that are whole and fit this bundle, this TensorRT and this GPU, by graph.

    Raises:
        BundleError: there are none, or they are of another GPU, TensorRT or graph, or damaged.
    """
    command = f"build them with: etam-edge build {bundle.path}" + (
        f" --runtime {TENSORRT_RTX}" if platform.flavour == TENSORRT_RTX else ""
    )
    if not (bundle.path / FOLDER / platform.fingerprint).is_dir():
        others = built_for(bundle)
        text = f"; it has engines for {'; '.join(map(str, others))}" if others else ""
        raise BundleError(f"{bundle.path} has no engines for {platform}{text}; {command}")
    reason = stale(bundle, platform, graphs)
    if reason:
        raise BundleError(f"{reason}; {command} --overwrite")
    found = {}
    for name in graphs:
        path = engine_path(bundle, platform, name)
        found[name] = Sidecar.load(path.with_suffix(".json"))
        if sha256_of(path) != found[name].sha256:
            raise BundleError(f"{path} is damaged: it does not match its hash; {command} --overwrite")
    return found


def built_for(bundle: Bundle) -> list[EnginePlatform]:
    """What the bundle has engines for, whole or not, by their sidecars."""
    found = []
    for path in sorted((bundle.path / FOLDER).glob(f"*/{GRAPH_NAMES[0]}.json")):
        try:
            found.append(Sidecar.load(path).platform)
        except BundleError:
            continue
    return found
