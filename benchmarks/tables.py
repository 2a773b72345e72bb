"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.interleave import Entry
from etam_edge.benchmark.result import Ratio


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A line that says what it is, and the table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join([title, "", *(f"| {' | '.join(line)} |" for line in lines)])


def times_table(title: str, entries: Sequence[Entry], words: dict[str, str]) -> str:
    """All candidates of one run: times, ratios over the first one, agreement with it.

    Args:
        title: of the table.
        entries: the first one is the base.
        words: descriptions by name; a name without one is printed as it is.
    """
    rows = []
    for entry in entries:
        whole = [words.get(entry.name, entry.name), f"{entry.whole.p50:.1f}", f"{entry.whole.minimum:.1f}"]
        if entry.ratio is None or entry.agreement is None:
            rows.append([*whole, "", "", "", ""])
            continue
        agreement = entry.agreement
        verdict = f"{agreement.mean_iou:.4f}" if agreement.same_masks else f"**other masks**, {agreement.mean_iou:.4f}"
        rows.append([*whole, *ratio_cells(entry.ratio), verdict, f"{agreement.relative_error:.1e}"])
    base = words.get(entries[0].name, entries[0].name)
    header = ["", "median, ms", "minimum, ms", "ratio (95 %)", "of minima", "mean IoU", "logit error"]
    return table(f"{title}; ratios are times of {base} over the row's", header, rows)


def ratio_cells(found: Ratio) -> list[str]:
    """Of medians with its interval, and of minima."""
    return [f"{found.of_medians:.2f} ({found.low:.2f} to {found.high:.2f})", f"{found.of_minima:.2f}"]


def mask_warnings(where: str, entries: Sequence[Entry]) -> list[str]:
    """A sentence for each candidate whose masks differ from those of the first one."""
    return [
        f"{where}: {entry.name} gives other masks than {entries[0].name} (mean IoU {entry.agreement.mean_iou:.3f}): "
        "its time is not a result"
        for entry in entries
        if entry.agreement is not None and not entry.agreement.same_masks
    ]
