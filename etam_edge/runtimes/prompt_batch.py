"""Many prompts on the features of one image: the `encode` and `prompt` graphs with buffers of their own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from etam_edge.bundle import Bundle, TensorSpec
from etam_edge.errors import BundleError, NotFiniteError
from etam_edge.runtimes.backends.base import Backend
from etam_edge.runtimes.backends.buffers import Buffer
from etam_edge.runtimes.workspace import CANDIDATES, all_finite
from etam_edge.spec import EMPTY_POINT, MASK_SOURCE_LOGITS, MASK_SOURCE_NONE

BUFFER_BYTES = 256 << 20
"""Bound on the buffers of a batch. It allows about 150 prompts at 512 px and 40 at 1024 px."""


class Candidates(NamedTuple):
    """The decoder's four masks for each of N prompts: 0 is the single mask, 1 to 3 are the alternatives.

    Attributes:
        logits: float32 (N, 4, S/4, S/4).
        ious: float32 (N, 4), predicted by the model.
    """

    logits: np.ndarray
    ious: np.ndarray


class PromptBatch:
    """The buffers of one image and of a batch of prompts.

    Args:
        bundle: whose `prompt` graph writes all candidates.
        backend: that runs its graphs.

    Attributes:
        largest: number of prompts that one batch can hold: as many as fit into 256 MiB, and as the backend takes.

    Raises:
        BundleError: the bundle's `prompt` graph writes one mask only.
    """

    def __init__(self, bundle: Bundle, backend: Backend) -> None:
        signatures = {name: entry.signature for name, entry in bundle.manifest.graphs.items()}
        self._inputs, self._outputs = signatures["prompt"].inputs, signatures["prompt"].outputs
        if not {tensor.name for tensor in self._outputs}.issuperset(CANDIDATES):
            raise BundleError(
                f"the `prompt` graph of {bundle.path} writes one mask for each prompt, and segmenting images needs all "
                "candidates; export the bundle again with this version of etam-edge (videos are tracked with it as "
                "before)"
            )
        self._spec = bundle.manifest.model
        self._points = bundle.manifest.sizes.max_points
        self._backend = backend
        self._frame = self._allocate(signatures["encode"].inputs, 1)
        self._image = self._allocate(signatures["encode"].outputs, 1)["image_features"]
        row = sum(int(np.prod(t.sized(1))) * np.dtype(t.dtype).itemsize for t in (*self._inputs, *self._outputs))
        fitting = max(1, BUFFER_BYTES // row)
        self.largest = fitting if backend.max_objects is None else min(fitting, backend.max_objects)
        self._buffers: dict[str, Buffer] = {}
        self._rows = self._filled = 0

    def encode(self, frame: np.ndarray) -> None:
        """Compute the features of an image, which all prompts read until the next one.

        Args:
            frame: uint8 (S, S, 3) RGB, or (H, W, 3) of the bundle's frame size.

        Raises:
            EtamError: the graph failed.
        """
        self._filled = 0
        self._backend.device.upload(frame[None], self._frame["frame"])
        self._backend.run("encode", self._frame, {"image_features": self._image})

    def decode(self, points: np.ndarray, labels: np.ndarray, mask_logits: np.ndarray | None) -> Candidates:
        """The candidates for N prompts, in batches of at most `largest`.

        Args:
            points: float32 (N, P, 2), in pixels of the (S, S) image.
            labels: int32 (N, P); EMPTY_POINT where there is no point.
            mask_logits: float32 (N, S/4, S/4), an earlier mask of each, or None.

        Raises:
            EtamError: the graph failed, or (NotFiniteError) its output is NaN or infinite.
        """
        count, size = len(points), min(len(points), self.largest)
        self._reserve(size)
        parts = []
        for start in range(0, count, size):
            here = slice(start, min(start + size, count))
            parts.append(self._run(points[here], labels[here], None if mask_logits is None else mask_logits[here]))
        return parts[0] if len(parts) == 1 else Candidates(*map(np.concatenate, zip(*parts, strict=True)))

    def _run(self, points: np.ndarray, labels: np.ndarray, mask_logits: np.ndarray | None) -> Candidates:
        count, device = len(points), self._backend.device
        padded = np.zeros((count, self._points, 2), dtype=np.float32)
        padded[:, : points.shape[1]] = points
        kinds = np.full((count, self._points), EMPTY_POINT, dtype=np.int32)
        kinds[:, : labels.shape[1]] = labels
        source = MASK_SOURCE_NONE if mask_logits is None else MASK_SOURCE_LOGITS
        values = {
            "points": padded,
            "labels": kinds,
            # As in the reference: an image reads no memory, which the no-memory embedding says.
            "without_memory": np.ones(count, dtype=np.float32),
            "mask_source": np.full(count, source, dtype=np.int32),
            # Which of the candidates is the graph's own choice does not matter here.
            "multimask": np.zeros(count, dtype=np.int32),
        }
        if mask_logits is not None:
            values["previous_logits"] = np.ascontiguousarray(mask_logits, dtype=np.float32)
        part = {name: buffer.rows(0, count) for name, buffer in self._buffers.items()}
        for name, value in values.items():
            device.upload(value, part[name])
        for row in range(self._filled, count):
            device.copy(self._image.at(0), self._buffers["features"].at(row))
        self._filled = max(self._filled, count)
        self._backend.run(
            "prompt", {t.name: part[t.name] for t in self._inputs}, {t.name: part[t.name] for t in self._outputs}
        )
        found = Candidates(*(device.download(part[name]) for name in CANDIDATES))
        if not all(map(all_finite, found)):
            raise NotFiniteError(
                "the model's masks of this image are NaN or infinite; check the bundle's precision and the checkpoint "
                "it was exported from"
            )
        return found

    def _reserve(self, rows: int) -> None:
        """Make room for a batch; buffers are kept, and only grow."""
        if rows > self._rows:
            self._buffers = {}  # freed before the larger ones are allocated
            self._buffers = self._allocate((*self._inputs, *self._outputs), rows)
            self._rows, self._filled = rows, 0

    def _allocate(self, tensors: Iterable[TensorSpec], rows: int) -> dict[str, Buffer]:
        return {t.name: self._backend.device.empty(t.sized(rows), t.dtype) for t in tensors}
