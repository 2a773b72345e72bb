"""A recording: true inputs of every graph, sampled from rollouts, on disk.

Calibration needs what the graphs see while they track: `track` reads a memory that it wrote itself, and its inputs with
a full bank, after an occlusion or beside a second object are not those of the first frame. So the recorder runs the
tracker over clips and keeps samples spread over how full the memory is, how many objects there are, and whether they
are visible.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from etam_edge.bundle import GRAPH_NAMES, Bundle
from etam_edge.errors import InputError
from etam_edge.spec import GraphSizes

SCHEMA_VERSION = 1
MANIFEST = "recording.json"
HOW = "record it again with: etam-edge record BUNDLE CLIPS --output DIR"


@dataclass(frozen=True)
class Sample:
    """One call of a graph.

    Attributes:
        file: relative to the recording, a NumPy archive of the graph's inputs by name.
        clip: name of the clip.
        frame: index of the frame.
        kind: what the samples are spread over, in words.
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
        model: `ModelSpec.to_dict` of the model that was tracked with.
        sizes: of its graphs.
        checkpoint: name and sha256 of its weights.
        clips: name, frames and objects of each.
        seed: of the sampling.
        samples: by graph.
        seen: calls by graph and kind, of which the samples are a part.
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
        """
        Raises:
            InputError: there is no recording at `path`, or it is damaged or of another schema.
        """
        file = path / MANIFEST
        try:
            fields = json.loads(file.read_text(encoding="utf-8"))
            schema = fields.pop("schema")
        except FileNotFoundError:
            raise InputError(f"{path} is no recording: it holds no {MANIFEST}; {HOW}") from None
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            raise InputError(f"{file} is damaged ({error}); {HOW}") from error
        if schema != SCHEMA_VERSION:
            raise InputError(f"{file} has schema version {schema}, and this etam-edge reads {SCHEMA_VERSION}; {HOW}")
        try:
            samples = {name: [Sample(**row) for row in rows] for name, rows in fields.pop("samples").items()}
            return cls(path=path, samples=samples, **fields)
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{file} is damaged ({error}); {HOW}") from error

    def to_json(self) -> str:
        fields = {name: value for name, value in vars(self).items() if name not in ("path", "samples")}
        samples = {name: [vars(sample) for sample in rows] for name, rows in self.samples.items()}
        return json.dumps({"schema": SCHEMA_VERSION, **fields, "samples": samples}, indent=1) + "\n"

    def check(self, bundle: Bundle) -> None:
        """Refuse a recording of other graphs than the bundle's, or one that lacks samples.

        Raises:
            InputError: it is of another model, other sizes or another checkpoint, or a graph has no sample.
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
            raise InputError(f"{self.path} holds no sample of {', '.join(missing)}; {HOW}")

    def check_sizes(self, sizes: GraphSizes, bundle: str) -> None:
        """
        Args:
            sizes: of the graphs that it shall serve.
            bundle: whose they are, for the sentence.

        Raises:
            InputError: it was recorded with others.
        """
        if self.sizes != sizes.to_dict():
            raise InputError(f"{self.path} was recorded with graphs of other sizes than {bundle} has; {HOW}")

    def inputs(self, graph: str) -> Iterator[dict[str, np.ndarray]]:
        """The inputs of a graph, call by call.

        Raises:
            InputError: a file is missing or damaged.
        """
        for sample in self.samples[graph]:
            file = self.path / sample.file
            try:
                with np.load(file, allow_pickle=False) as arrays:
                    yield dict(arrays)
            except Exception as error:
                raise InputError(f"{file} is missing or damaged ({error}); {HOW}") from error

    @property
    def frames(self) -> int:
        return sum(int(clip["frames"]) for clip in self.clips)

    def summary(self) -> dict[str, Any]:
        """What a bundle's manifest says about it."""
        return {
            "clips": self.clips,
            "frames": self.frames,
            "seed": self.seed,
            "samples": {name: len(rows) for name, rows in self.samples.items()},
        }
