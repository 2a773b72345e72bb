"""What a precision, a runtime or a change of the model costs in accuracy: two bundles compared over clips."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from etam_edge import __version__
from etam_edge.bundle import Bundle
from etam_edge.errors import BundleError, InputError
from etam_edge.recipe import FP16
from etam_edge.runtimes.backends.threads import AUTO, Threads
from etam_edge.workflows.clips import PathLike, load_clips
from etam_edge.workflows.packages import export_packages
from etam_edge.workflows.progress import ProgressCallback, Stage
from etam_edge.workflows.reports import check_report_folder, write_report

if TYPE_CHECKING:
    from etam_edge.bundle.summaries import Accuracy
    from etam_edge.evaluation.check import Check
    from etam_edge.evaluation.summary import Comparison
    from etam_edge.evaluation.thresholds import Outcome, Verdict
    from etam_edge.media.datasets import Clip
    from etam_edge.runtimes import Tracker

logger = logging.getLogger(__name__)
REPORT, FIGURES = "report.html", "check.json"


@dataclass(frozen=True, eq=False)
class CheckResult:
    """A candidate bundle compared with a reference bundle.

    Attributes:
        outcome: the two sides, the comparison, the thresholds and the verdict.
        runs: masks, scores and times of both sides, clip by clip.
        report: the HTML report, or None where no `output` was given.
    """

    outcome: Outcome
    runs: Check
    report: Path | None = None

    @property
    def comparison(self) -> Comparison:
        """Figures over all clips, and clip by clip: J, F, drop, IoU with the reference, drift, flips, latency."""
        return self.outcome.comparison

    @property
    def verdict(self) -> Verdict:
        """Whether the candidate is within its thresholds, and why or why not."""
        return self.outcome.verdict

    @property
    def passed(self) -> bool:
        """Whether the candidate is within all thresholds."""
        return self.outcome.verdict.passed

    def table(self) -> tuple[list[str], list[list[str]], list[str]]:
        """Header, a row for every clip, and the row over all clips, as texts."""
        from etam_edge.evaluation.findings import clip_rows

        return clip_rows(self.comparison)

    def caption(self) -> str:
        """What the columns of `table` are."""
        from etam_edge.evaluation.findings import caption

        return caption(self.comparison)

    def findings(self) -> list[tuple[str, str]]:
        """Name and text of what is not in `table`: worst frames, drift, flips, times, CPU."""
        from etam_edge.evaluation.findings import findings

        sides = (("candidate", self.outcome.candidate), ("reference", self.outcome.reference))
        forms = [f"{name} int8 as {side.int8_form}" for name, side in sides if side.int8_form is not None]
        runtimes = ", ".join(f"{name} {side.runtime}" for name, side in sides)
        return [
            *findings(self.comparison),
            ("runtime", runtimes),
            ("CPU", ", ".join([self.outcome.candidate.cpu, *forms])),
        ]


def describe_accuracy(accuracy: Accuracy) -> str:
    """The verdict that a manifest holds, in one line.

    Args:
        accuracy: `Manifest.accuracy`.
    """
    from etam_edge.evaluation.thresholds import describe

    return describe(accuracy)


def check(
    bundle: Bundle | PathLike,
    reference: Bundle | PathLike,
    clips: PathLike | Sequence[Clip],
    *,
    prompts: PathLike | None = None,
    max_drop: float | None = None,
    min_iou: float | None = None,
    max_frames: int | None = None,
    output: PathLike | None = None,
    runtime: str = "auto",
    reference_runtime: str = "auto",
    provider: str = "auto",
    reference_provider: str = "auto",
    threads: Threads = AUTO,
    round_fp16: bool = True,
    progress: ProgressCallback | None = None,
) -> CheckResult:
    """Compare a bundle with a reference bundle over clips, and judge it by thresholds.

    The two track the same frames, interleaved, so that their times can be compared. The verdict is stored in the
    manifest of `bundle`, and added to the earlier ones in its `checks.jsonl`; where that cannot be written, a warning
    is logged. Of reports in one folder, all are kept: earlier ones in `history/`.

    Args:
        bundle: candidate, or its path.
        reference: what it is compared with, as a rule the fp32 bundle.
        clips: a path, or `Clip` objects. With ground truth, J&F and its drop are computed; without, masks are
            compared with the reference's.
        prompts: JSON file of prompts, where `clips` is the path of a single clip.
        max_drop: points of J&F that may be lost; None for 1.0 where there is ground truth.
        min_iou: smallest IoU with the reference's masks that any frame may have, 0 to 1, or None.
        max_frames: of each clip, or None for all.
        output: folder for the report (report.html, check.json), or None for none.
        runtime, reference_runtime: "auto", "onnxruntime", "openvino", "tensorrt" or
            "tensorrt-rtx".
        provider, reference_provider: of ONNX Runtime: "auto", "cpu" or "cuda".
        threads: CPU threads of each; "auto" uses one for each physical core.
        round_fp16: on a CPU, which computes fp16 in fp32, round after every operation as a GPU does. Needs onnx.
        progress: told of the stage "check".

    Raises:
        InputError: an argument or a clip cannot be used, nothing can be judged, or the output cannot be written.
        BundleError: a bundle is missing or damaged.
        RuntimeUnavailableError: a runtime, PyAV (for videos) or OpenCV (for ground truth and the report) is not
            installed. Without matplotlib, a warning is logged and the report has no plots.
    """
    from etam_edge.evaluation.check import check as compare_trackers
    from etam_edge.evaluation.clips import count_frames, is_judged
    from etam_edge.evaluation.runs import need_opencv
    from etam_edge.evaluation.thresholds import Outcome, Side, choose_thresholds, judge
    from etam_edge.plotting import can_plot

    folder = None if output is None else Path(output)
    plots = False
    if folder is not None:
        need_opencv()
        check_report_folder(folder)
        plots = can_plot()
    found = load_clips(clips, prompts)
    counts = count_frames(found, max_frames)
    judged = sum(is_judged(clip, count) for clip, count in zip(found, counts, strict=True))
    if judged:
        need_opencv()
    thresholds = choose_thresholds(max_drop, min_iou, judged, len(found))
    ours = load_side(bundle, runtime, provider, threads, "")
    theirs = load_side(reference, reference_runtime, reference_provider, threads, "`reference`: ")
    _check_prompts(found, (ours, theirs))
    with ExitStack() as stack:
        rounded = {side: _rounded(side, threads, stack) for side in (ours, theirs) if round_fp16 and _hides_fp16(side)}
        candidate, other = (Side.of(side, rounded=side in rounded) for side in (ours, theirs))
        if candidate.checkpoint != other.checkpoint:
            logger.warning(
                "%s and %s come from different checkpoints; the drop is not the cost of the precision alone",
                ours.bundle.path,
                theirs.bundle.path,
            )
        frames = Stage(progress, "check", sum(counts), "frame")
        runs = compare_trackers(
            rounded.get(ours, ours),
            rounded.get(theirs, theirs),
            found,
            max_frames,
            frames.step,
            (ours if ours in rounded else None, theirs if theirs in rounded else None),
        )
    verdict = judge(runs.comparison, thresholds)
    created = datetime.now(timezone.utc).isoformat(timespec="seconds")
    outcome = Outcome(candidate, other, runs.comparison, thresholds, verdict, __version__, created)
    try:
        ours.bundle.store_accuracy(outcome.to_manifest())
    except BundleError as error:
        logger.warning("the verdict is not stored in the bundle: %s", error)
    if folder is None:
        return CheckResult(outcome, runs)
    return CheckResult(outcome, runs, _write_report(folder, outcome, runs, found, plots))


def load_side(bundle: Bundle | PathLike, runtime: str, provider: str, threads: Threads, where: str) -> Tracker:
    """
    Raises:
        EtamError: the bundle, runtime or provider cannot be used; for an unknown one with `where` it was given.
    """
    from etam_edge.runtimes import Tracker

    path = bundle.path if isinstance(bundle, Bundle) else bundle
    try:
        return Tracker.load(path, runtime, provider=provider, threads=threads)
    except InputError as error:
        raise InputError(f"{where}{error}") from error


def as_on_a_gpu(tracker: Tracker, threads: Threads, stack: ExitStack) -> Tracker:
    """The tracker, or where its runtime computes fp16 in fp32, one that rounds after every operation as a GPU does.

    Raises:
        RuntimeUnavailableError: onnx is not installed.
    """
    return _rounded(tracker, threads, stack) if _hides_fp16(tracker) else tracker


def _hides_fp16(tracker: Tracker) -> bool:
    """Whether this runtime computes the bundle's fp16 regions in fp32."""
    recipe = tracker.bundle.manifest.recipe
    half = any(recipe.float_type(region) == FP16 for region in recipe.regions)
    return half and tracker.runtime in ("onnxruntime (cpu)", "openvino (cpu)")


def _rounded(tracker: Tracker, threads: Threads, stack: ExitStack) -> Tracker:
    """The same bundle with fp16 rounded after every operation, in a temporary directory of `stack`.

    Raises:
        RuntimeUnavailableError: onnx is not installed.
    """
    from etam_edge.runtimes import Tracker

    with export_packages("rounding fp16 as a GPU does (`round_fp16=False` leaves it out)"):
        from etam_edge.exporters.rounded_bundle import rounded_bundle
    place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="etam-edge-"))) / tracker.bundle.path.name
    return Tracker.load(rounded_bundle(tracker.bundle, place).path, provider="cpu", threads=threads)


def _check_prompts(clips: Sequence[Clip], trackers: Sequence[Tracker]) -> None:
    """
    Raises:
        InputError: a clip's frames or prompts do not fit one of the bundles, or its prompts do not fit its frames.
    """
    for clip in clips:
        for tracker in trackers:
            tracker.bundle.check_frame_shape(clip.frames.frame_shape, f"clip {clip.name}")
            clip.plan.check_prompts(clip.frames.frame_shape, tracker.spec, tracker.bundle.manifest.sizes)


def _write_report(folder: Path, outcome: Outcome, runs: Check, clips: Sequence[Clip], plots: bool) -> Path:
    """
    Raises:
        InputError: it cannot be written, or a clip cannot be read any more.
    """
    from etam_edge.evaluation.report import to_html
    from etam_edge.evaluation.worst_frames import worst_frames

    # allow_nan=False: JSON has no NaN, and none of the figures is one.
    texts = {
        FIGURES: json.dumps(outcome.to_dict(), indent=1, allow_nan=False) + "\n",
        REPORT: to_html(outcome, runs, worst_frames(runs, clips), plots),
    }
    write_report(folder, texts, f"; the check itself {outcome.verdict.sentence}")
    return folder / REPORT
