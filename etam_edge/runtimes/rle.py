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
    return encode_runs(runs_of(mask).tolist())


def encode_runs(runs: list[int]) -> str:
    """The compressed encoding of the runs of a mask; see `encode_rle`."""
    return "".join(_characters(number) for number in _differences(runs))


def decode_rle(counts: str | list[int], shape: tuple[int, int]) -> np.ndarray:
    """The mask of a COCO segmentation, bool (H, W).

    Args:
        counts: compressed, as `encode_rle` writes them, or the list of run lengths itself.
        shape: (H, W), the segmentation's `size`.

    Raises:
        ValueError: the runs do not fill the mask, or the text is no encoding.
    """
    return mask_of_runs(np.array(_numbers(counts) if isinstance(counts, str) else counts, dtype=np.int64), shape)


def runs_of(mask: np.ndarray) -> np.ndarray:
    """Lengths of the runs of 0, 1, 0, ... of a mask in column-major order, int64; the first may be 0."""
    values = np.asarray(mask, dtype=bool).ravel(order="F")
    changes = np.flatnonzero(values[1:] != values[:-1]) + 1
    starts = [0, 0] if len(values) and values[0] else [0]
    return np.diff(np.concatenate((starts, changes, [len(values)]))).astype(np.int64)


def mask_of_runs(runs: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The mask that `runs_of` was called with, bool (H, W).

    Raises:
        ValueError: the runs do not fill the mask.
    """
    height, width = shape
    if (runs < 0).any() or runs.sum() != height * width:
        raise ValueError(f"the runs of a mask add up to {runs.sum()} pixels, and its size is {height} x {width}")
    values = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return np.ascontiguousarray(values.reshape(width, height).T)


def _differences(runs: list[int]) -> list[int]:
    return [run - runs[index - 2] if index > 2 else run for index, run in enumerate(runs)]


def _numbers(text: str) -> list[int]:
    """The run lengths of a compressed encoding.

    Raises:
        ValueError: the text ends in the middle of a number, or has characters of no encoding.
    """
    runs: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - _FIRST_CHARACTER
        if not 0 <= bits < 2 * _MORE:
            raise ValueError(f"{character!r} is not part of a run-length encoding")
        value |= (bits & (_MORE - 1)) << shift
        shift += _BITS
        if bits & _MORE:
            continue
        if bits & (_MORE >> 1):
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    if shift:
        raise ValueError("a run-length encoding ends in the middle of a number")
    return runs


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
