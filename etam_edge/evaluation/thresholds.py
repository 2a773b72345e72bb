"""Thresholds of an accuracy check, the verdict, and the summary for the manifest of the bundle."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from etam_edge.bundle import Accuracy, ClipSummary, ReferenceBundle
from etam_edge.cpu import cpu_kind
from etam_edge.errors import InputError

if TYPE_CHECKING:
    from etam_edge.evaluation.summary import Comparison
    from etam_edge.runtimes import Tracker

DEFAULT_MAX_DROP = 1.0
ROUNDED = ", fp16 rounded after every operation"


@dataclass(frozen=True)
class Thresholds:
    """Thresholds of a check. At least one is not None.

    Attributes:
        max_drop: largest drop of J&F that passes, in points; None to ignore J&F.
        min_iou: smallest IoU with the reference's mask on any object frame that passes, 0 to 1; None to ignore it.

    Raises:
        InputError: both are None, or one is out of range.
    """

    max_drop: float | None = DEFAULT_MAX_DROP
    min_iou: float | None = None

    def __post_init__(self) -> None:
        if self.max_drop is None and self.min_iou is None:
            raise InputError("no threshold is given; give `max_drop` or `min_iou`")
        if self.max_drop is not None and not 0 <= self.max_drop < math.inf:
            raise InputError(f"`max_drop={self.max_drop:g}` is not a number of points; give 0 or more, for example 1.0")
        if self.min_iou is not None and not 0 <= self.min_iou <= 1:
            raise InputError(f"`min_iou={self.min_iou:g}` is not an IoU; give a number from 0 to 1, for example 0.9")


def choose_thresholds(max_drop: float | None, min_iou: float | None, judged_clips: int, clips: int) -> Thresholds:
    """Choose thresholds that can be judged on these clips.

    If a clip has ground-truth masks, `max_drop` is DEFAULT_MAX_DROP unless it is given.

    Args:
        max_drop, min_iou: thresholds that the user gave; None if not given.
        judged_clips: number of clips that have ground-truth masks on frames that J and F are averaged over.
        clips: number of clips.

    Raises:
        InputError: the thresholds cannot be judged without ground-truth masks, or one is out of range.
    """
    if judged_clips:
        return Thresholds(DEFAULT_MAX_DROP if max_drop is None else max_drop, min_iou)
    wanting = (
        f"{'the clip has no' if clips == 1 else f'none of the {clips} clips has'} ground-truth masks of an object "
        "between its prompt and the clip's last frame"
    )
    if max_drop is not None:
        raise InputError(
            f"`max_drop` cannot be judged: {wanting}; add annotations, or leave it out and compare the masks with the "
            "reference's by `min_iou`"
        )
    if min_iou is None:
        raise InputError(
            f"a drop of J&F cannot be judged: {wanting}; add annotations, or compare the masks with the reference's by "
            "`min_iou`, for example `min_iou=0.9`"
        )
    return Thresholds(None, min_iou)


@dataclass(frozen=True)
class Verdict:
    """Result of a check.

    Attributes:
        passed: whether all thresholds were met.
        reasons: a sentence for each threshold that was not met; if all were met, a sentence for each threshold.
    """

    passed: bool
    reasons: list[str]

    @property
    def sentence(self) -> str:
        """The result in one sentence."""
        return f"{'passed' if self.passed else 'failed'}: {'; '.join(self.reasons)}"


def judge(comparison: Comparison, thresholds: Thresholds) -> Verdict:
    """Judge a comparison by thresholds. Outputs that are NaN or infinite fail any threshold.

    Raises:
        InputError: `max_drop` is given and there are no ground-truth masks.
    """
    rules: list[tuple[bool, str]] = []
    if thresholds.max_drop is not None:
        if comparison.overall.drop is None:
            raise InputError("a drop of J&F cannot be judged without ground-truth masks; give a smallest IoU instead")
        drop = comparison.overall.drop.j_and_f
        change = f"drops by {drop:.3f}" if not drop < 0 else f"rises by {-drop:.3f}"
        rules.append(
            (drop <= thresholds.max_drop, f"J&F {change} points (at most {thresholds.max_drop:g} may be lost)")
        )
    if thresholds.min_iou is not None:
        smallest = comparison.overall.worst.iou
        rules.append(
            (
                smallest >= thresholds.min_iou,
                f"the smallest IoU with the reference is {smallest:.3f} (at least {thresholds.min_iou:g})",
            )
        )
    for who, count in (
        ("candidate", comparison.candidate_not_finite),
        ("reference", comparison.reference_not_finite),
    ):
        if count:
            frames = "1 frame" if count == 1 else f"{count} frames"
            rules.append((False, f"the {who}'s outputs were NaN or infinite on {frames}"))
    # Comparisons with NaN are false, so NaN fails.
    failures = [text for kept, text in rules if not kept]
    return Verdict(not failures, failures or [text for _, text in rules])


@dataclass(frozen=True)
class Side:
    """A bundle that was compared, and what ran it.

    Attributes:
        name: name of the bundle's folder.
        identity: `Bundle.identity`.
        model, precision: of the bundle.
        checkpoint: sha256 of the weights, or "".
        runtime: name of the runtime and its device, and whether fp16 was rounded as a GPU rounds it.
        cpu: kind of the machine's CPU, with its instruction set; "" where it is not known.
        int8_form: how int8 products were computed on a CPU ("uint8 x int8", say); None without int8 or on a GPU.
    """

    name: str
    identity: str
    model: str
    precision: str
    checkpoint: str
    runtime: str
    cpu: str = ""
    int8_form: str | None = None

    @classmethod
    def of(cls, tracker: Tracker, rounded: bool = False) -> Side:
        """
        Args:
            tracker: of the bundle itself, not of a rounded copy.
            rounded: whether it was tracked by a copy of the bundle that rounds to fp16 after every operation.
        """
        bundle = tracker.bundle
        return cls(
            name=bundle.path.resolve().name,
            identity=bundle.identity,
            model=bundle.manifest.model.name,
            precision=bundle.manifest.precision,
            checkpoint=bundle.manifest.checkpoint.sha256,
            runtime=tracker.runtime + (ROUNDED if rounded else ""),
            cpu=cpu_kind(),
            int8_form=tracker.int8_form,
        )


@dataclass(frozen=True)
class Outcome:
    """Everything that a check stores.

    Attributes:
        candidate, reference: the bundles that were compared.
        comparison: the figures.
        thresholds: of the check.
        verdict: whether the thresholds were met.
        version: of etam-edge.
        created: when, ISO 8601 in UTC.
    """

    candidate: Side
    reference: Side
    comparison: Comparison
    thresholds: Thresholds
    verdict: Verdict
    version: str
    created: str

    def to_dict(self) -> dict[str, Any]:
        """All fields, for JSON."""
        return {"etam-edge": self.version, **{k: v for k, v in asdict(self).items() if k != "version"}}

    def to_manifest(self) -> Accuracy:
        """The summary that the candidate's manifest stores."""
        overall = self.comparison.overall
        drop, reference, candidate = (
            None if accuracy is None else accuracy.j_and_f
            for accuracy in (overall.drop, overall.reference, overall.candidate)
        )
        return Accuracy(
            passed=self.verdict.passed,
            reasons=list(self.verdict.reasons),
            thresholds=asdict(self.thresholds),
            drop=drop,
            reference_j_and_f=reference,
            candidate_j_and_f=candidate,
            mean_iou=overall.mean_iou,
            smallest_iou=overall.worst.iou,
            reference=ReferenceBundle(
                name=self.reference.name, identity=self.reference.identity, runtime=self.reference.runtime
            ),
            runtime=self.candidate.runtime,
            cpu=self.candidate.cpu,
            int8_form=self.candidate.int8_form,
            clips=tuple(ClipSummary(name=clip.name, frames=clip.frames) for clip in self.comparison.clips),
            judged_clips=self.comparison.judged_clips,
            candidate_not_finite=self.comparison.candidate_not_finite,
            reference_not_finite=self.comparison.reference_not_finite,
            score_flips=asdict(overall.score_flips),
            choice_flips=asdict(overall.choice_flips),
            etam_edge=self.version,
            created=self.created,
        )


def _limit(accuracy: Accuracy, name: str, word: str) -> str:
    limit = accuracy.thresholds.get(name)
    return f" ({word} {limit:g})" if isinstance(limit, int | float) else ""


def describe(accuracy: Accuracy) -> str:
    """The accuracy summary of a manifest in one line."""
    figures = [
        f"J&F drop {accuracy.drop:.2f} points{_limit(accuracy, 'max_drop', 'at most')}"
        if accuracy.drop is not None
        else "",
        f"smallest IoU {accuracy.smallest_iou:.3f}{_limit(accuracy, 'min_iou', 'at least')}"
        if accuracy.smallest_iou is not None
        else "",
    ]
    count = len(accuracy.clips)
    where = f"against {accuracy.reference.name or 'another bundle'} over {count} clip{'' if count == 1 else 's'}"
    form = f"int8 as {accuracy.int8_form}" if accuracy.int8_form else ""
    origin = [accuracy.runtime, accuracy.cpu or "", form, accuracy.created]
    return (
        f"{'passed' if accuracy.passed else 'failed'}: {', '.join(filter(None, figures))}, {where} "
        f"({', '.join(filter(None, origin))})"
    )
