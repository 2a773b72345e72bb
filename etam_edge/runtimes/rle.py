"""Run-length encoding of masks as in COCO annotations (pycocotools' compressed counts)."""

from __future__ import annotations

import numpy as np

_BITS = 5
_MORE = 1 << _BITS
"""Set in a character that another one of the same number follows."""
_FIRST_CHARACTER = 48


def encode_rle(mask: np.ndarray) -> str:
    """The compressed run-length encoding of a mask, bool (H, W), for the `counts` of a COCO segmentation.

    Runs alternate between 0 and 1 and begin with 0, in column-major order. From the fourth run on, the difference to
    the run two before is written. Each number takes one or more characters of 5 bits, the low bits first, the sign in
    the last one's highest bit, each offset by 48 (`rleToString` in pycocotools).
    """
    return "".join(_characters(number) for number in _differences(_runs(mask)))


def _runs(mask: np.ndarray) -> list[int]:
    """Lengths of the runs of 0, 1, 0, ... in column-major order; the first may be 0."""
    values = np.asarray(mask, dtype=bool).ravel(order="F")
    changes = np.flatnonzero(values[1:] != values[:-1]) + 1
    starts = [0, *changes.tolist()]
    if len(values) and values[0]:
        starts.insert(0, 0)
    return np.diff([*starts, len(values)]).tolist()


def _differences(runs: list[int]) -> list[int]:
    return [run - runs[index - 2] if index > 2 else run for index, run in enumerate(runs)]


def _characters(number: int) -> str:
    text = ""
    while True:
        low = number & (_MORE - 1)
        number >>= _BITS
        # The sign bit of what is written must equal the sign of what is left out.
        done = number == (-1 if low & (_MORE >> 1) else 0)
        text += chr((low if done else low | _MORE) + _FIRST_CHARACTER)
        if done:
            return text
