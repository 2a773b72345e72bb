"""Parts of the manifest that describe where a bundle comes from: checkpoint, calibration, accuracy.

They inform people and do not decide how a bundle runs, so they are read leniently: a field that is missing has its
default, and a field that a newer version added is kept and written back.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, TypeVar

from etam_edge.json_fields import check_fields

_Summary = TypeVar("_Summary", bound="Summary")


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A part of the manifest.

    Attributes:
        extra: fields of the JSON object that this version does not know.
    """

    extra: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_dict(cls: type[_Summary], fields: dict[str, Any]) -> _Summary:
        """
        Raises:
            TypeError: the fields are not a JSON object, one has another type, or a required one is missing.
        """
        if not isinstance(fields, dict):
            raise TypeError(f"{cls.__name__} is not a JSON object: {fields!r}")
        known = {_json_name(one.name): one.name for one in dataclasses.fields(cls) if one.name != "extra"}
        values = {known[name]: value for name, value in fields.items() if name in known}
        check_fields(cls, values)
        return cls(**values, extra={name: value for name, value in fields.items() if name not in known})

    def to_dict(self) -> dict[str, Any]:
        """The JSON object that `from_dict` reads. Fields that are None are left out."""
        names = [one.name for one in dataclasses.fields(self) if one.name != "extra"]
        values = {_json_name(name): _plain(getattr(self, name)) for name in names}
        return {name: value for name, value in values.items() if value is not None} | self.extra


def _json_name(name: str) -> str:
    return name.replace("etam_edge", "etam-edge")


def _plain(value: Any) -> Any:
    if isinstance(value, Summary):
        return value.to_dict()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


@dataclass(frozen=True, kw_only=True)
class Checkpoint(Summary):
    """The weights that a bundle was exported from.

    Attributes:
        name: file name of the checkpoint.
        sha256: of the file, in hexadecimal; "" if it is not known.
    """

    name: str = ""
    sha256: str = ""


@dataclass(frozen=True, kw_only=True)
class ClipSummary(Summary):
    """A clip that was tracked.

    Attributes:
        name: of the clip.
        frames: number of frames that were tracked.
        objects: number of objects; None if it is not known.
    """

    name: str
    frames: int
    objects: int | None = None


@dataclass(frozen=True, kw_only=True)
class LargestActivation(Summary):
    """The largest absolute value in a region of the model over the calibration clips, and the tensor that holds it."""

    value: float
    where: str = ""


@dataclass(frozen=True, kw_only=True)
class Calibration(Summary):
    """The measurements that fp16 and int8 graphs are based on.

    Attributes:
        clips: the clips that were tracked.
        frames: number of frames of all clips.
        seed: of the sampling of calls.
        samples: number of calls kept of each graph, by the graph's name.
        largest: largest activation of each region, by the region's name.
        left_float: "GRAPH:NODE" of every multiplication that stayed in floating point in a region that is int8; None if
            no region is int8.
        sensitivity: measured cost of each region, if regions were chosen by measurement; else None.
        trials: sets of int8 regions that were tried, if regions were chosen by measurement, the chosen set last; else
            None.
    """

    clips: tuple[ClipSummary, ...] = ()
    frames: int = 0
    seed: int | None = None
    samples: dict[str, int] = field(default_factory=dict)
    largest: dict[str, LargestActivation] = field(default_factory=dict)
    left_float: list[str] | None = None
    sensitivity: list[dict[str, Any]] | None = None
    trials: list[dict[str, Any]] | None = None

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Calibration:
        """
        Raises:
            TypeError, AttributeError: a field has another type.
        """
        read = super().from_dict(fields)
        largest = {name: LargestActivation.from_dict(value) for name, value in fields.get("largest", {}).items()}
        return dataclasses.replace(read, clips=_clips(fields), largest=largest)


@dataclass(frozen=True, kw_only=True)
class ReferenceBundle(Summary):
    """The bundle that an accuracy check compared with: its directory's name, `Bundle.identity` and its runtime."""

    name: str = ""
    identity: str = ""
    runtime: str = ""


@dataclass(frozen=True, kw_only=True)
class Accuracy(Summary):
    """The result of an accuracy check.

    Attributes:
        passed: whether all thresholds were met.
        reasons: why not, a sentence for each threshold that was not met.
        thresholds: by name.
        drop: points of J&F lost against the reference; None without ground truth.
        reference_j_and_f, candidate_j_and_f: 0 to 1; None without ground truth.
        mean_iou, smallest_iou: IoU with the reference's masks.
        reference: the bundle compared with.
        runtime: that ran this bundle.
        cpu: kind of the CPU, if it is known.
        int8_form: how int8 products were computed; None without int8 or not on a CPU.
        clips: the clips that were tracked.
        judged_clips: number of clips that have ground truth.
        candidate_not_finite, reference_not_finite: number of frames whose outputs were NaN or infinite.
        score_flips, choice_flips: object frames on which the sign of the object score, or the choice among the three
            masks, was another than the reference's.
        etam_edge: version of etam-edge that checked.
        created: time of the check, ISO 8601 in UTC.
    """

    passed: bool
    reasons: list[str] = field(default_factory=list)
    thresholds: dict[str, Any] = field(default_factory=dict)
    drop: float | None = None
    reference_j_and_f: float | None = None
    candidate_j_and_f: float | None = None
    mean_iou: float | None = None
    smallest_iou: float | None = None
    reference: ReferenceBundle = field(default_factory=ReferenceBundle)
    runtime: str = ""
    cpu: str | None = None
    int8_form: str | None = None
    clips: tuple[ClipSummary, ...] = ()
    judged_clips: int = 0
    candidate_not_finite: int = 0
    reference_not_finite: int = 0
    score_flips: dict[str, Any] = field(default_factory=dict)
    choice_flips: dict[str, Any] = field(default_factory=dict)
    etam_edge: str = ""
    created: str = ""

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Accuracy:
        """
        Raises:
            TypeError, AttributeError: a field has another type.
        """
        read = super().from_dict(fields)
        reference = ReferenceBundle.from_dict(fields.get("reference", {}))
        return dataclasses.replace(read, clips=_clips(fields), reference=reference)


def _clips(fields: dict[str, Any]) -> tuple[ClipSummary, ...]:
    return tuple(map(ClipSummary.from_dict, fields.get("clips", ())))


@dataclass(frozen=True, kw_only=True)
class Answer(Summary):
    """What the graphs answer to a fixed stream of frames and prompts (`etam_edge.runtimes.answer`).

    Attributes:
        stream: version of the stream.
        origin: what computed the answer: "model" for the PyTorch model that was exported, "graphs" for the graphs.
        scores, ious: object score and predicted IoU, one list a frame, one number an object.
        pointers, logits: the first numbers of the object pointer and a grid of mask logits, one list a frame, one list
            an object.
    """

    stream: int
    origin: str
    scores: list[list[float]]
    ious: list[list[float]]
    pointers: list[list[list[float]]]
    logits: list[list[list[float]]]
