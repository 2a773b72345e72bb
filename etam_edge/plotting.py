"""Figures that reports and benchmarks draw, all in one look. matplotlib is imported when the first one is made."""

from __future__ import annotations

import io
import logging
from typing import Any

from etam_edge.errors import RuntimeUnavailableError
from etam_edge.printable import one_line

logger = logging.getLogger(__name__)

WIDTH = 9.6
"""Inches."""
RESOLUTION = 130
"""Pixels an inch."""
INSTALL = 'pip install "etam-edge[check]"'


def need_matplotlib() -> Any:
    """matplotlib's figure class.

    Raises:
        RuntimeUnavailableError: it is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise RuntimeUnavailableError(
            f"plots need matplotlib, which cannot be imported ({error}); install it with: {INSTALL}"
        ) from error
    return Figure


def can_plot() -> bool:
    """Whether matplotlib is installed. If not, a warning says that there will be figures without plots."""
    try:
        need_matplotlib()
    except RuntimeUnavailableError as error:
        logger.warning("%s; figures are written without plots", error)
        return False
    return True


def plain(text: str) -> str:
    """A name as matplotlib shows it literally: it reads dollars as formulas, and hides labels that begin with "_"."""
    shown = one_line(text).replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown


def make_figure(height: float, rows: int = 1, columns: int = 1) -> tuple[Any, list[Any]]:
    """A figure and its axes, row by row."""
    figure = need_matplotlib()(figsize=(WIDTH, height), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for axes in grid:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#dddddd", linewidth=0.7)
        axes.set_axisbelow(True)
        axes.tick_params(labelsize=8)
        for label in (axes.xaxis.label, axes.yaxis.label):
            label.set_size(9)
    return figure, grid


def add_legend(figure: Any, axes: Any) -> None:
    """What the colours of these axes mean, above all axes."""
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper right", ncols=2, fontsize=8, frameon=False)


def to_png(figure: Any) -> bytes:
    """The figure as a PNG file."""
    file = io.BytesIO()
    # No creation date or version: equal figures make equal files.
    figure.savefig(file, format="png", dpi=RESOLUTION, metadata={"Software": None})
    return file.getvalue()
