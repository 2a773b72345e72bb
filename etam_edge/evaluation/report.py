"""The report of an accuracy check: one HTML file that contains its plots and images, and loads nothing."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Sequence
from html import escape as escape_html

from etam_edge.evaluation.check import Check
from etam_edge.evaluation.findings import caption, clip_rows, findings
from etam_edge.evaluation.plots import accuracy_plot, drift_plot, latency_plot, region_plot
from etam_edge.evaluation.summary import Comparison
from etam_edge.evaluation.thresholds import Outcome, Side
from etam_edge.evaluation.worst_frames import ONLY_CANDIDATE, ONLY_REFERENCE, Panels
from etam_edge.printable import printable

STYLE = """
:root { color-scheme: light dark; --ink: #1d2126; --soft: #68707a; --page: #f6f7f8; --card: #fff; --line: #dfe2e6;
  --good: #1e7f4f; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7eb; --soft: #9aa3ad; --page: #16181b; --card: #1f2226;
  --line: #363b41; --good: #4cc38a; --bad: #ff6f66; } }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 24px 20px 60px; }
h1 { font-size: 1.45rem; margin: 0 0 14px; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 34px 0 8px; }
p { margin: 6px 0; } .soft, caption, figcaption, footer { color: var(--soft); font-size: 0.87rem; }
.verdict { background: var(--card); border: 1px solid var(--line); border-left: 6px solid; border-radius: 6px;
  padding: 12px 16px; } .verdict strong { font-size: 1.15rem; }
.passed { border-left-color: var(--good); } .passed strong { color: var(--good); }
.failed { border-left-color: var(--bad); } .failed strong { color: var(--bad); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; background: var(--card); font-variant-numeric: tabular-nums; width: 100%; }
th, td { border: 1px solid var(--line); padding: 5px 9px; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } th { font-weight: 600; font-size: 0.87rem; }
.facts th, .facts td { text-align: left; white-space: normal; overflow-wrap: anywhere; }
.facts td:first-child { white-space: nowrap; }
tr.overall td { font-weight: 600; border-top: 2px solid var(--soft); }
caption { caption-side: bottom; text-align: left; padding-top: 5px; }
figure { margin: 10px 0; } img { max-width: 100%; border-radius: 4px; display: block; }
.plot { background: #fff; border: 1px solid var(--line); border-radius: 6px; padding: 8px; }
.panels { display: grid; grid-template-columns: repeat(auto-fit, minmax(230px, 1fr)); gap: 10px; }
.panels img { width: 100%; }
"""


NO_PLOTS = '<p class="soft">There are no plots: matplotlib was not installed when the report was written.</p>'


def escape(text: str) -> str:
    """Text for HTML, with control characters as escapes."""
    return escape_html(printable(text))


def to_html(outcome: Outcome, check: Check, panels: Sequence[Panels], plots: bool = True) -> str:
    """Write the report as HTML.

    Args:
        outcome: both bundles, the comparison and the verdict.
        check: the runs that were compared.
        panels: images of the worst frames.
        plots: whether to draw plots, which needs matplotlib.

    Raises:
        RuntimeUnavailableError: matplotlib is not installed, and plots are wanted.
    """
    title = f"{outcome.candidate.name} against {outcome.reference.name}"
    body = "\n".join(_body(title, outcome, check, panels, plots))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n"
        "</html>\n"
    )


def _body(title: str, outcome: Outcome, check: Check, panels: Sequence[Panels], plots: bool) -> Iterator[str]:
    comparison, verdict = outcome.comparison, outcome.verdict
    word = "passed" if verdict.passed else "failed"
    yield f"<h1>Accuracy check: {escape(title)}</h1>"
    reasons = "".join(f"<p>{escape(reason)}</p>" for reason in verdict.reasons)
    yield f'<div class="verdict {word}"><strong>{word}</strong>{reasons}</div>'
    yield "<h2>What was compared</h2>"
    yield _sides(outcome.candidate, outcome.reference)
    yield "<h2>Findings</h2>"
    yield _facts(findings(comparison))
    yield "<h2>Clip by clip</h2>"
    yield _clips(comparison)
    yield from _accuracy_plots(comparison) if plots else (NO_PLOTS,)
    yield "<h2>Worst frames</h2>"
    yield (
        '<p class="soft">The frame of each clip on which the masks differ most. In the difference image, '
        f"{_swatch(ONLY_REFERENCE)} pixels are in the reference's mask only, {_swatch(ONLY_CANDIDATE)} pixels in the "
        "candidate's mask only, and light pixels in both.</p>"
    )
    for one in panels:
        yield _panels(one)
    if plots and (comparison.candidate_latency or comparison.reference_latency):
        yield "<h2>Time a frame</h2>"
        yield _plot(
            latency_plot(check),
            "Frames without prompts. Both trackers were interleaved frame by frame. The slowest 1 % of the frames are "
            "drawn at the right edge.",
        )
    yield f"<footer>etam-edge {escape(outcome.version)}, {escape(outcome.created)}</footer>"


def _accuracy_plots(comparison: Comparison) -> Iterator[str]:
    yield "<h2>Drift</h2>"
    yield _plot(
        drift_plot(comparison),
        "IoU of the candidate's masks with the reference's. A curve that falls steadily shows an error that "
        "accumulates in memory. A curve that falls and recovers shows frames on which both chose different masks. "
        "Black: mean.",
    )
    if comparison.overall.drop is not None:
        yield "<h2>J&amp;F against the ground truth</h2>"
        yield _plot(accuracy_plot(comparison), "J&F, the mean of J and F, averaged over the objects of each clip.")
        yield _plot(
            region_plot(comparison),
            "J of every frame, for the objects whose J&F drops most. If both curves fall, the model itself loses the "
            "object. If only the candidate's falls, the candidate loses it.",
        )


def _sides(candidate: Side, reference: Side) -> str:
    rows = [
        ("bundle", candidate.name, reference.name),
        ("model", candidate.model, reference.model),
        ("precision", candidate.precision, reference.precision),
        ("runtime", candidate.runtime, reference.runtime),
        ("CPU", candidate.cpu or "not known", reference.cpu or "not known"),
        ("int8 products", candidate.int8_form or "none on a CPU", reference.int8_form or "none on a CPU"),
        ("checkpoint (sha256)", candidate.checkpoint or "not known", reference.checkpoint or "not known"),
        ("graphs (sha256)", candidate.identity, reference.identity),
    ]
    return f'<table class="facts">{_row(("", "candidate", "reference"), "th")}{"".join(map(_row, rows))}</table>'


def _facts(rows: Iterable[tuple[str, str]]) -> str:
    return f'<table class="facts">{"".join(map(_row, rows))}</table>'


def _clips(comparison: Comparison) -> str:
    header, rows, overall = clip_rows(comparison)
    lines = _row(header, "th") + "".join(map(_row, rows)) + _row(overall, kind="overall")
    return f'<div class="scroll"><table>{lines}<caption>{escape(caption(comparison))}</caption></table></div>'


def _row(cells: Iterable[str], tag: str = "td", kind: str = "") -> str:
    return (
        f"<tr{f' class={kind}' if kind else ''}>"
        + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells)
        + "</tr>"
    )


def _plot(png: bytes, caption: str) -> str:
    picture = f'<div class="plot">{_image(png, "png", caption)}</div>'
    return f"<figure>{picture}<figcaption>{escape(caption)}</figcaption></figure>"


def _panels(panels: Panels) -> str:
    worst = panels.worst
    title = f"{worst.clip}, object {worst.object_id}, frame {worst.frame}: IoU {worst.iou:.3f}"
    figures = "".join(
        f"<figure>{_image(picture, 'jpeg', name)}<figcaption>{escape(name)}</figcaption></figure>"
        for name, picture in panels.pictures.items()
    )
    return f'<p>{escape(title)}</p><div class="panels">{figures}</div>'


def _image(data: bytes, kind: str, text: str) -> str:
    return f'<img alt="{escape(text)}" src="data:image/{kind};base64,{base64.b64encode(data).decode()}">'


def _swatch(colour: tuple[int, int, int]) -> str:
    return f'<span style="color: rgb{colour}">&#9632;</span>'
