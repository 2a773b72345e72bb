"""What a runtime answers on the drawn stream and for each graph alone, stored, and compared with another's answers."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from etam_edge import __version__
from etam_edge.atomic import atomic_file
from etam_edge.bundle import GRAPH_NAMES, Bundle
from etam_edge.bundle.engines import ONE_OBJECT
from etam_edge.errors import InputError, NotFiniteError
from etam_edge.machine_test.graph_inputs import graph_inputs
from etam_edge.machine_test.scene import FRAMES, SHAPE, play
from etam_edge.recipe import FP16, FP32, INT8, MIXED
from etam_edge.runtimes import FrameResult, Tracker
from etam_edge.runtimes.backends.arrays import run_on_arrays

VERSION = 1
SAMPLE = 4096
"""Elements of each graph's output that are kept."""


@dataclass(frozen=True)
class Tolerance:
    """How far answers may be apart.

    Attributes:
        error: of mask logits, object pointers and outputs of graphs, as the norm of the difference over the norm.
        agreement: smallest share of mask pixels that must be equal.
    """

    error: float
    agreement: float


TOLERANCES = {
    FP32: Tolerance(0.01, 0.999),
    FP16: Tolerance(0.05, 0.99),
    INT8: Tolerance(0.2, 0.97),
    MIXED: Tolerance(0.2, 0.97),
}
"""By precision. Rounding to fp16 after every operation, on a CPU, moves the mask logits of the tests' small model by
0.012, and by 0.046 between int8 layers, where it moves values over the edge of a step; other kernels do so in their own
way."""


@dataclass(frozen=True)
class FrameAnswer:
    """The answer for one object on one frame.

    Attributes:
        mask: bool (H, W).
        mask_logits: float32 (S/4, S/4).
        pointer: float32 (D,).
        score: object score.
    """

    mask: np.ndarray
    mask_logits: np.ndarray
    pointer: np.ndarray
    score: float


@dataclass(frozen=True)
class Answers:
    """Answers of one runtime.

    Attributes:
        about: "bundle" (its identity), "model", "precision", "runtime" and the version of etam-edge.
        frames: by frame index and object id.
        graphs: by graph and output, float32, up to SAMPLE elements of each.
    """

    about: dict[str, Any]
    frames: dict[tuple[int, int], FrameAnswer] = field(default_factory=dict)
    graphs: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a compressed .npz file, atomically.

        Raises:
            InputError: it cannot be written.
        """
        arrays: dict[str, np.ndarray] = {"about": np.array(json.dumps({"version": VERSION, **self.about}))}
        for (index, object_id), answer in self.frames.items():
            place = f"frame/{index}/{object_id}"
            arrays[f"{place}/mask"] = answer.mask
            arrays[f"{place}/mask_logits"] = answer.mask_logits
            arrays[f"{place}/pointer"] = answer.pointer
            arrays[f"{place}/score"] = np.array(answer.score, dtype=np.float32)
        for name, outputs in self.graphs.items():
            arrays |= {f"graph/{name}/{output}": value for output, value in outputs.items()}
        try:
            with atomic_file(path) as file:
                np.savez_compressed(file, allow_pickle=False, **arrays)
        except OSError as error:
            raise InputError(
                f"`write_answers={path}` cannot be written ({error.strerror}); name another file"
            ) from error

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Answers:
        """
        Raises:
            InputError: the file is missing, damaged or of another version.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            about = json.loads(str(arrays.pop("about")))
            version = about.pop("version")
            if version != VERSION:
                raise ValueError(f"version {version}, this etam-edge reads {VERSION}")
            found = cls(about)
            frames: dict[tuple[int, int], dict[str, np.ndarray]] = {}
            for name, value in arrays.items():
                kind, first, rest = name.split("/", 2)
                if kind == "graph":
                    found.graphs.setdefault(first, {})[rest] = value
                else:
                    object_id, what = rest.split("/")
                    frames.setdefault((int(first), int(object_id)), {})[what] = value
            for place, values in frames.items():
                found.frames[place] = FrameAnswer(**{**values, "score": float(values["score"])})  # type: ignore[arg-type]
            return found
        except FileNotFoundError:
            raise InputError(
                f"there are no answers at `against={path}`; write them with `write_answers`, on a machine that has "
                "ONNX Runtime"
            ) from None
        except Exception as error:
            raise InputError(f"`against={path}` holds no answers, or is damaged ({error}); write it again") from error

    def check_bundle(self, bundle: Bundle, path: str | os.PathLike[str]) -> None:
        """Refuse answers of another bundle.

        Raises:
            InputError: the graphs that gave these answers are not those of the bundle.
        """
        if self.about["bundle"] != bundle.identity:
            raise InputError(
                f"`against={path}` holds answers of another bundle than {bundle.path} "
                f"({self.about['model']}, {self.about['precision']}); write them with this one"
            )


def about(tracker: Tracker) -> dict[str, Any]:
    """What gives the answers."""
    manifest = tracker.bundle.manifest
    return {
        "bundle": tracker.bundle.identity,
        "model": manifest.model.name,
        "precision": manifest.precision,
        "runtime": tracker.runtime,
        "etam_edge": __version__,
    }


def frame_shape(bundle: Bundle) -> tuple[int, int]:
    """Size (H, W) of the stream's frames: the bundle's own, or 240 x 320."""
    return bundle.manifest.sizes.frame_size or SHAPE


def answer_stream(tracker: Tracker, objects: int) -> dict[tuple[int, int], FrameAnswer]:
    """Answers for the drawn stream, by frame index and object id.

    Raises:
        EtamError: a graph failed, or its output is not finite.
    """
    found: dict[tuple[int, int], FrameAnswer] = {}
    shape = frame_shape(tracker.bundle)
    with tracker.start_session(max_objects=objects) as session:
        for index in range(FRAMES):
            [result] = play(session, index, index + 1, shape, objects)
            for row, object_id in enumerate(result.object_ids):
                found[index, object_id] = FrameAnswer(
                    result.masks[row],
                    result.mask_logits[row],
                    session.object_pointer(object_id),
                    float(result.object_scores[row]),
                )
    return found


def answer_graph(tracker: Tracker, name: str, objects: int) -> dict[str, np.ndarray]:
    """A sample of each output of a graph on drawn inputs, float32.

    Raises:
        NotFiniteError: an output is NaN or infinite.
        EtamError: the graph failed.
    """
    signature = tracker.bundle.manifest.graphs[name].signature
    inputs = graph_inputs(signature, tracker.spec, 1 if name in ONE_OBJECT else objects)
    outputs = run_on_arrays(tracker.backend, name, signature, inputs)
    for output, value in outputs.items():
        if not np.isfinite(value).all():
            raise NotFiniteError(f"output {output} of graph {name} is NaN or infinite; check the bundle's precision")
    return {output: sample(value) for output, value in outputs.items()}


def sample(value: np.ndarray) -> np.ndarray:
    """Up to SAMPLE elements, spread evenly, float32. The first row's are among them in the same order for any number
    of objects, since they are taken row by row."""
    rows = value.reshape(len(value), -1)
    step = -(-rows.shape[1] // SAMPLE)
    return np.ascontiguousarray(rows[:, ::step], dtype=np.float32)


def answer_all(tracker: Tracker, objects: int) -> Answers:
    """Answers for the stream and for every graph.

    Raises:
        EtamError: a graph failed, or its output is not finite.
    """
    graphs = {name: answer_graph(tracker, name, objects) for name in GRAPH_NAMES}
    return Answers(about(tracker), answer_stream(tracker, objects), graphs)


@dataclass(frozen=True)
class Difference:
    """Largest differences of answers, and where they are.

    Attributes:
        logits, pointers: largest relative error.
        agreement: smallest share of equal mask pixels.
        flips: answers of which one says that the object is visible and the other that it is not.
        worst: frame index of the largest error of the logits.
        compared: number of answers.
    """

    logits: float
    pointers: float
    agreement: float
    flips: int
    worst: int
    compared: int

    def within(self, tolerance: Tolerance) -> bool:
        close = self.logits <= tolerance.error and self.pointers <= tolerance.error
        return close and self.agreement >= tolerance.agreement and self.flips == 0

    def __str__(self) -> str:
        flips = f", {self.flips} times visible in one only" if self.flips else ""
        return (
            f"logits differ by up to {self.logits:.2g} (frame {self.worst}), pointers by {self.pointers:.2g}, "
            f"masks agree on {100 * self.agreement:.2f} %{flips}"
        )


def compare_streams(
    found: Mapping[tuple[int, int], FrameAnswer], wanted: Mapping[tuple[int, int], FrameAnswer]
) -> Difference:
    """Compare the answers for the frames and objects that both have: engines may take one object only.

    Raises:
        InputError: they have none in common.
    """
    places = sorted(set(found) & set(wanted))
    if not places:
        raise InputError("the stored answers have no frame in common with these; write them again")
    logits = {place: relative_error(found[place].mask_logits, wanted[place].mask_logits) for place in places}
    worst = max(logits, key=lambda place: logits[place])
    return Difference(
        logits=logits[worst],
        pointers=max(relative_error(found[place].pointer, wanted[place].pointer) for place in places),
        agreement=min(float(np.mean(found[place].mask == wanted[place].mask)) for place in places),
        flips=sum((found[place].score > 0) != (wanted[place].score > 0) for place in places),
        worst=worst[0],
        compared=len(places),
    )


def compare_graphs(found: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Relative error of each output of a graph, over the objects that both have."""
    errors = {}
    for name in found:
        rows = min(len(found[name]), len(wanted[name]))
        errors[name] = relative_error(found[name][:rows], wanted[name][:rows])
    return errors


def same_results(first: Sequence[FrameResult], second: Sequence[FrameResult]) -> float:
    """Largest relative error of mask logits between two runs of the same frames; 0.0 where they are equal."""
    return max(relative_error(a.mask_logits, b.mask_logits) for a, b in zip(first, second, strict=True))


def relative_error(found: np.ndarray, wanted: np.ndarray) -> float:
    """The norm of the difference over the norm of what is wanted."""
    difference = float(np.linalg.norm(found.astype(np.float64) - wanted))
    return difference / max(float(np.linalg.norm(wanted.astype(np.float64))), 1e-12) if difference else 0.0
