"""A recording: inputs of every graph, sampled while clips were tracked, on disk.

int8 scales must be measured on the inputs that the graphs have while they track. `track` reads memory entries that
earlier calls wrote: its inputs with a full memory, after an occlusion or with several objects differ from those of the
first frame. The recorder therefore tracks clips, and keeps samples spread over how full the memory is, how many objects
there are and whether they are visible.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from etam_edge.bundle import GRAPH_NAMES, OBJECTS, Bundle, ClipSummary, graph_signatures
from etam_edge.errors import InputError, shown, why
from etam_edge.json_fields import check_fields, check_value
from etam_edge.printable import storable
from etam_edge.regular_files import open_archive, open_regular, read_json
from etam_edge.runtimes.npz import Npz, require
from etam_edge.runtimes.session import MAX_OBJECTS
from etam_edge.spec import GraphSizes, ModelSpec

SCHEMA_VERSION = 1
MANIFEST = "recording.json"
HOW = "record it again with: etam-edge record BUNDLE CLIPS --output DIR"


@dataclass(frozen=True)
class Sample:
    """The inputs of one call of a graph.

    Attributes:
        file: NumPy archive of the inputs by name, relative to the recording.
        clip: name of the clip.
        frame: index of the frame.
        kind: kind of the call, in words. Samples are spread over the kinds.
    """

    file: str
    clip: str
    frame: int
    kind: str


@dataclass(frozen=True)
class Recording:
    """A recording on disk.

    Attributes:
        path: its folder.
        model: `ModelSpec.to_dict` of the model that tracked the clips.
        sizes: `GraphSizes.to_dict` of its graphs.
        checkpoint: name and sha256 of its weights.
        clips: name, number of frames and number of objects of each clip.
        seed: of the random choice of samples.
        samples: samples of each graph, by the graph's name.
        seen: number of calls by the graph's name and the kind of call. The samples are a part of them.
    """

    path: Path
    model: dict[str, Any]
    sizes: dict[str, Any]
    checkpoint: dict[str, str]
    clips: list[dict[str, Any]]
    seed: int
    samples: dict[str, list[Sample]]
    seen: dict[str, dict[str, int]] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> Recording:
        """Read a recording.

        Raises:
            InputError: there is no recording at `path`, or it is damaged or of another schema version.
        """
        file = path / MANIFEST
        try:
            fields = read_json(file)
            schema = fields.pop("schema")
        except FileNotFoundError:
            raise InputError(f"{path} is not a recording: it has no {MANIFEST}; {HOW}") from None
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            raise InputError(f"{file} is damaged ({why(error)}); {HOW}") from error
        if schema != SCHEMA_VERSION or isinstance(schema, bool):
            raise InputError(
                f"{file} has schema version {shown(schema)}, and this etam-edge reads {SCHEMA_VERSION}; {HOW}"
            )
        try:
            rows = fields.pop("samples")
            check_value(rows, dict[str, list[dict]], "samples")
            unknown = [name for name in rows if name not in GRAPH_NAMES]
            if unknown:
                raise ValueError(f"samples are of {shown(unknown)}, which are no graphs")
            check_fields(cls, fields)
            ModelSpec.from_dict(fields["model"])
            GraphSizes(**fields["sizes"])
            for clip in fields["clips"]:
                check_fields(ClipSummary, {name: clip[name] for name in ("name", "frames")} | clip)
            samples = {name: [_sample(path, one) for one in of_graph] for name, of_graph in rows.items()}
            return cls(path=path, samples=samples, **fields)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise InputError(f"{file} is damaged ({why(error)}); {HOW}") from error

    def to_json(self) -> str:
        """The text of `recording.json`."""
        fields = {name: value for name, value in vars(self).items() if name not in ("path", "samples")}
        samples = {name: [vars(sample) for sample in rows] for name, rows in self.samples.items()}
        return json.dumps(storable({"schema": SCHEMA_VERSION, **fields, "samples": samples}), indent=1) + "\n"

    def check(self, bundle: Bundle) -> None:
        """Check that the bundle's graphs can be calibrated with this recording.

        Raises:
            InputError: it was recorded with another model, other sizes or another checkpoint, or a graph has no sample.
        """
        manifest = bundle.manifest
        self.check_sizes(manifest.sizes, str(bundle.path))
        mine = {"model": self.model, "checkpoint": self.checkpoint.get("sha256")}
        theirs = {"model": manifest.model.to_dict(), "checkpoint": manifest.checkpoint.sha256}
        for what, value in mine.items():
            if value != theirs[what]:
                raise InputError(f"{self.path} was recorded with another {what} than {bundle.path} has; {HOW}")
        missing = [name for name in GRAPH_NAMES if not self.samples.get(name)]
        if missing:
            raise InputError(f"{self.path} has no sample of {', '.join(missing)}; {HOW}")

    def check_sizes(self, sizes: GraphSizes, bundle: str) -> None:
        """Check that this recording was made with graphs of the given sizes.

        Args:
            sizes: of the graphs to calibrate.
            bundle: name of their bundle, for the error message.

        Raises:
            InputError: it was recorded with graphs of other sizes.
        """
        if self.sizes != sizes.to_dict():
            raise InputError(f"{self.path} was recorded with graphs of other sizes than {bundle} has; {HOW}")

    def inputs(self, graph: str) -> Iterator[dict[str, np.ndarray]]:
        """Yield the inputs of each sampled call of a graph, by input name.

        Raises:
            InputError: a file is missing or damaged.
        """
        tensors = graph_signatures(ModelSpec.from_dict(self.model), GraphSizes(**self.sizes))[graph].inputs
        for sample in self.samples[graph]:
            file = self.path / sample.file
            try:
                with open_regular(file) as opened, open_archive(opened, len(tensors)) as archive:
                    members = Npz(archive)
                    counted = [tensor.name for tensor in tensors if tensor.shape[0] == OBJECTS]
                    objects = members.leading(counted[0]) if counted else 1
                    require(1 <= objects <= MAX_OBJECTS, f"it is of {objects} objects")
                    sized = {one.name: replace(one, shape=one.sized(objects)) for one in tensors}
                    inputs = members.arrays(sized, {})
            except Exception as error:  # On arbitrary bytes, zipfile and NumPy raise exceptions of many kinds.
                raise InputError(f"{file} is missing or damaged ({why(error)}); {HOW}") from error
            yield inputs

    @property
    def frames(self) -> int:
        """Number of frames of all clips."""
        return sum(int(clip["frames"]) for clip in self.clips)

    def summary(self) -> dict[str, Any]:
        """The fields of `etam_edge.bundle.Calibration` that describe this recording."""
        return {
            "clips": self.clips,
            "frames": self.frames,
            "seed": self.seed,
            "samples": {name: len(rows) for name, rows in self.samples.items()},
        }


def _sample(folder: Path, fields: dict[str, Any]) -> Sample:
    """
    Raises:
        TypeError, ValueError: the fields are not those of a sample, or name a file outside the recording.
    """
    check_fields(Sample, fields)
    sample = Sample(**fields)
    if folder.resolve() not in (folder / sample.file).resolve().parents:
        raise ValueError(f"sample {shown(sample.file)} lies outside the recording")
    return sample
