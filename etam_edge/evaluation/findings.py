"""A comparison as text and table rows, for the terminal and for the report."""

from __future__ import annotations

from collections.abc import Iterator

from etam_edge.evaluation.summary import Comparison, Figures, Latency, Share

JUDGED = "J, F, J&F: reference / candidate; drop: points, hundredths of J&F; "
COMPARED = "IoU and flips (visible or not, choice of mask): against the reference"


def caption(comparison: Comparison) -> str:
    """Explanation of the columns of `clip_rows`."""
    return f"{'' if comparison.overall.drop is None else JUDGED}{COMPARED}"


def clip_rows(comparison: Comparison) -> tuple[list[str], list[list[str]], list[str]]:
    """The table of clips: header, a row for each clip, a row over all clips. It has J and F only with ground truth."""
    judged = comparison.overall.drop is not None
    header = ["clip", *(["J", "F", "J&F", "drop"] if judged else []), "mean\nIoU", "smallest\nIoU", "flips"]
    rows = [[clip.name, *_cells(clip.figures, judged)] for clip in comparison.clips]
    return header, rows, ["overall", *_cells(comparison.overall, judged)]


def _cells(figures: Figures, judged: bool) -> Iterator[str]:
    if judged:
        for name in ("j", "f", "j_and_f"):
            pair = figures.reference, figures.candidate
            yield "/".join("-" if one is None else f"{getattr(one, name):.3f}" for one in pair)
        yield "-" if figures.drop is None else _points(figures.drop.j_and_f)
    yield f"{figures.mean_iou:.3f}"
    yield f"{figures.worst.iou:.3f}"
    yield f"{figures.score_flips.count}, {figures.choice_flips.count}"


def findings(comparison: Comparison) -> list[tuple[str, str]]:
    """Name and text of each finding that is not in the table of clips."""
    return list(_findings(comparison))


def _findings(comparison: Comparison) -> Iterator[tuple[str, str]]:
    overall, worst, fifth = comparison.overall, comparison.overall.worst, comparison.worst_fifth
    if overall.drop is not None:
        drop = overall.drop
        yield "drop", f"J&F {_points(drop.j_and_f)} points (J {_points(drop.j)}, F {_points(drop.f)})"
        if overall.judged_objects < overall.objects:
            yield (
                "ground truth",
                f"{comparison.judged_clips} of {len(comparison.clips)} clips and {overall.judged_objects} of "
                f"{overall.objects} objects have it; J and F are averaged over those",
            )
    yield "worst frame", f"{worst.clip}, object {worst.object_id}, frame {worst.frame}: IoU {worst.iou:.3f}"
    lost = "" if fifth.drop is None else f"drop {_points(fifth.drop)} points, "
    yield (
        "worst fifth",
        f"of the clips by {'drop' if fifth.by == 'drop' else 'mean IoU'} ({', '.join(fifth.clips)}): {lost}mean IoU "
        f"{fifth.mean_iou:.3f}",
    )
    yield (
        "drift",
        f"mean IoU {overall.first_third:.3f} in the first third of the frames, {overall.last_third:.3f} in the last",
    )
    yield "flips", f"visible or not {_share(overall.score_flips)}, choice of mask {_share(overall.choice_flips)}"
    if overall.both_empty.count:
        yield "both empty", f"{_share(overall.both_empty)}: both masks are empty, which counts as IoU 1"
    yield (
        "NaN or infinity",
        f"candidate {_frames(comparison.candidate_not_finite)}, reference {_frames(comparison.reference_not_finite)}",
    )
    ours, theirs = comparison.candidate_latency, comparison.reference_latency
    ratio = f"; {theirs.median / ours.median:.2f} times as fast" if ours and theirs else ""
    yield "time a frame", f"candidate {_time(ours)}, reference {_time(theirs)}{ratio}"


def _points(drop: float) -> str:
    # Adding 0.0 turns -0.0 into 0.0.
    return f"{round(drop, 2) + 0.0:.2f}"


def _share(share: Share) -> str:
    return f"{share.count} of {share.of} object frames"


def _frames(count: int) -> str:
    return "1 frame" if count == 1 else f"{count} frames"


def _time(latency: Latency | None) -> str:
    return "not known" if latency is None else f"{latency.median:.1f} ms (p95 {latency.p95:.1f})"
