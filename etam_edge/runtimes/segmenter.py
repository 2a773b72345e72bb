"""Segmentation of single images: prompts on one image, or everything in it. No memory is read or written."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from etam_edge.bundle import Bundle
from etam_edge.errors import InputError
from etam_edge.runtimes.backends.base import Backend
from etam_edge.runtimes.backends.threads import AUTO, Threads
from etam_edge.runtimes.everything.generator import generate
from etam_edge.runtimes.everything.options import EverythingOptions
from etam_edge.runtimes.everything.proposal import Proposal
from etam_edge.runtimes.frames import as_frame
from etam_edge.runtimes.prompt_batch import Candidates, PromptBatch
from etam_edge.runtimes.prompts import prepare_named
from etam_edge.runtimes.resample import resize_bilinear, resize_image
from etam_edge.runtimes.tracker import Tracker
from etam_edge.runtimes.types import Prompt
from etam_edge.runtimes.workspace import LOGIT_LIMIT
from etam_edge.spec import EMPTY_POINT, ModelSpec

if TYPE_CHECKING:
    from PIL.Image import Image

STABILITY_DELTA, STABILITY_THRESHOLD = 0.05, 0.98
"""The single mask is replaced by the best alternative where its area above logit +0.05 is less than 0.98 of its area
above -0.05, as in SAM 2."""


class Prediction(NamedTuple):
    """The answer to one prompt: M masks, three alternatives or one. It unpacks as the result of SAM 2's `predict`.

    Attributes:
        masks: bool (M, H, W) at image size; float32 logits where these were asked for.
        ious: float32 (M,), the IoU that the model predicts for each.
        mask_logits: float32 (M, S/4, S/4), clamped to +-32: the `mask_input` of the next call.
    """

    masks: np.ndarray
    ious: np.ndarray
    mask_logits: np.ndarray

    @property
    def best(self) -> int:
        """Index of the mask with the highest predicted IoU."""
        return int(np.argmax(self.ious))


class Segmenter:
    """Segments images with a bundle's `encode` and `prompt` graphs, as the reference's image predictor does.

    The features of an image are computed once, by `set_image`, and read by every prompt until the next image. Method
    and parameter names are those of SAM 2's image predictor and automatic mask generator where the same is meant. A
    segmenter can be used in a `with` statement, which closes it at the end; it must not be used by two threads at the
    same time.

    Args:
        bundle: on disk.
        backend: that runs its graphs. `Segmenter(tracker.bundle, tracker.backend)` shares those of a tracker.

    Raises:
        BundleError: the bundle was exported before its `prompt` graph wrote all candidates.
    """

    def __init__(self, bundle: Bundle, backend: Backend) -> None:
        self.bundle = bundle
        self.backend = backend
        self._batch = PromptBatch(bundle, backend)
        self._image: np.ndarray | None = None

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        runtime: str = "auto",
        *,
        provider: str = "auto",
        threads: Threads = AUTO,
        device: int | None = None,
    ) -> Segmenter:
        """Load a bundle that `etam-edge export` wrote. Arguments and errors are those of `Tracker.load`.

        Raises:
            BundleError: as of `Tracker.load`, or the bundle was exported before its `prompt` graph wrote all
                candidates.
            RuntimeUnavailableError, CudaError, InputError: as of `Tracker.load`.
        """
        tracker = Tracker.load(path, runtime, provider=provider, threads=threads, device=device)
        return cls(tracker.bundle, tracker.backend)

    @property
    def spec(self) -> ModelSpec:
        """Specification of the bundle's model: all its sizes."""
        return self.bundle.manifest.model

    @property
    def runtime(self) -> str:
        """Name of the runtime and where it runs, for example "onnxruntime (cpu)"."""
        return self.backend.name

    @property
    def image(self) -> np.ndarray | None:
        """The image that prompts are about, uint8 (H, W, 3) RGB; None before the first `set_image`."""
        return self._image

    def set_image(self, image: np.ndarray | Image) -> None:
        """Compute the features of an image, which later prompts read.

        Args:
            image: uint8 (H, W, 3) RGB of any size, or a PIL image, which is converted to RGB. A bundle exported with a
                frame size accepts only that one.

        Raises:
            InputError: the image cannot be used. The image before stays set.
            EtamError: the graph failed. No image is set.
        """
        pixels = as_frame(image, "the image")
        self.bundle.check_frame_shape(pixels.shape[:2], "the image")
        self._image = None
        self._encode(pixels)
        self._image = pixels

    def predict(
        self,
        prompt: Prompt | None = None,
        multimask: bool = True,
        *,
        mask_input: np.ndarray | None = None,
        return_logits: bool = False,
    ) -> Prediction:
        """Segment one prompt on the image.

        Args:
            prompt: points with labels, a box, or both, in pixels of the image; or a mask, which is used as a hint (as
                logits of +-10). None for `mask_input` alone.
            multimask: three alternatives, of which `Prediction.best` is the best by predicted IoU; recommended for one
                click, which may mean a part or the whole. Otherwise one mask, as for two or more points or a box.
            mask_input: float32 (S/4, S/4) or (1, S/4, S/4), logits of an earlier answer to refine:
                `prediction.mask_logits[prediction.best]`.
            return_logits: give `masks` as float32 logits instead of bool.

        Raises:
            InputError: no image is set, or the prompt cannot be used.
            EtamError: the graph failed, or (NotFiniteError) its output is NaN or infinite.
        """
        given = None if mask_input is None else [mask_input]
        return self._predict([prompt], ["prompt"], multimask, given, return_logits)[0]

    def predict_many(
        self,
        prompts: Sequence[Prompt] | np.ndarray,
        multimask: bool = False,
        *,
        mask_inputs: Sequence[np.ndarray] | np.ndarray | None = None,
        return_logits: bool = False,
    ) -> list[Prediction]:
        """Segment many prompts on the same image, in batches that fit memory.

        Args:
            prompts: of N objects; or their boxes, an array (N, 4) of (x0, y0, x1, y1) as detectors give them.
            multimask, return_logits: as of `predict`, for all of them.
            mask_inputs: logits of N earlier answers to refine, or None.

        Returns:
            N predictions, in the order of the prompts.

        Raises:
            InputError: no image is set, or a prompt cannot be used; the message gives its number, from 0.
            EtamError: the graph failed, or (NotFiniteError) its output is NaN or infinite.
        """
        if isinstance(prompts, np.ndarray):
            if prompts.ndim != 2 or prompts.shape[1] != 4:
                raise InputError(f"boxes have shape {prompts.shape}; give (N, 4) as [(x0, y0, x1, y1), ...]")
            prompts = [Prompt(box=box) for box in prompts]
        if mask_inputs is not None and len(mask_inputs) != len(prompts):
            raise InputError(
                f"there are {len(prompts)} prompts and {len(mask_inputs)} `mask_inputs`; give one for each"
            )
        names = [f"prompt {number}" for number in range(len(prompts))]
        return self._predict(prompts, names, multimask, mask_inputs, return_logits)

    def everything(
        self,
        image: np.ndarray | Image | None = None,
        options: EverythingOptions | None = None,
        *,
        progress: Callable[[int, int], None] | None = None,
        **changes: Any,
    ) -> list[Proposal]:
        """Masks of everything in an image, as the reference's automatic mask generator finds them.

        A grid of points is decoded, three masks a point. Masks are dropped by predicted IoU, by stability, and where a
        better one has nearly the same box.

        Args:
            image: as of `set_image`; None for the image that is set.
            options: thresholds and grid; None for the reference's defaults.
            progress: called with the number of points decoded and of all points, after every batch.
            changes: single options by name: `everything(image, points_per_side=16, top_k=20)`.

        Returns:
            the proposals, best predicted IoU first; with crops, those of small crops first. With crops, no image is
            set afterwards.

        Raises:
            InputError: no image is given or set, an option is not known or out of range, or crops were requested from
                a bundle that takes frames of one size.
            EtamError: a graph failed, or (NotFiniteError) its output is NaN or infinite.
            RuntimeUnavailableError: `min_mask_region_area` needs OpenCV, which is not installed.
        """
        chosen = (options or EverythingOptions()).replace(**changes)
        if image is not None:
            self.set_image(image)
        pixels = self._known_image()
        if chosen.crop_n_layers and self.bundle.manifest.sizes.frame_size is not None:
            raise InputError(
                f"`crop_n_layers={chosen.crop_n_layers}` needs images of several sizes, and {self.bundle.path} takes "
                "frames of one size; use 0, or a bundle exported without a frame size"
            )
        if chosen.crop_n_layers:
            self._image = None
        return generate(self._encode, self._decode, self.spec.image_size, pixels, chosen, progress)

    def close(self) -> None:
        """Free the graphs now rather than with the last reference. Whoever shares the backend cannot run either."""
        self.backend.close()
        self._image = None

    def __enter__(self) -> Segmenter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Segmenter({str(self.bundle.path)!r}, runtime={self.runtime!r})"

    # --- implementation ---

    def _known_image(self) -> np.ndarray:
        if self._image is None:
            raise InputError("no image is set; call set_image(image) first")
        return self._image

    def _encode(self, pixels: np.ndarray) -> None:
        fixed = self.bundle.manifest.sizes.frame_size is not None
        self._batch.encode(np.ascontiguousarray(pixels) if fixed else resize_image(pixels, self.spec.image_size))

    def _decode(
        self, points: np.ndarray, labels: np.ndarray, mask_logits: np.ndarray | None, multimask: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """Logits (N, M, S/4, S/4) and predicted IoUs (N, M) of N prompts in pixels of the (S, S) image."""
        return _chosen(self._batch.decode(points, labels, mask_logits), multimask)

    def _predict(
        self,
        prompts: Sequence[Prompt | None],
        names: Sequence[str],
        multimask: bool,
        mask_inputs: Sequence[np.ndarray] | np.ndarray | None,
        return_logits: bool,
    ) -> list[Prediction]:
        shape = self._known_image().shape[:2]
        sizes, low = self.bundle.manifest.sizes, self.spec.mask_size
        points = np.zeros((len(prompts), sizes.max_points, 2), dtype=np.float32)
        labels = np.full((len(prompts), sizes.max_points), EMPTY_POINT, dtype=np.int32)
        logits: np.ndarray | None = None
        if mask_inputs is not None:
            logits = np.stack([_logits(one, low, name) for one, name in zip(mask_inputs, names, strict=True)])
        hints: list[int] = []
        for row, (prompt, name) in enumerate(zip(prompts, names, strict=True)):
            if prompt is None:
                if logits is None:
                    raise InputError("nothing is prompted; give a Prompt, or `mask_input`")
                continue
            prepared = prepare_named(prompt, name, (shape[0], shape[1]), self.spec, sizes)
            if prepared.mask_logits is None:
                points[row], labels[row] = prepared.points, prepared.labels
                continue
            if mask_inputs is not None:
                raise InputError(f"{name} has a mask and there is a `mask_input`; give one of them")
            logits = np.zeros((len(prompts), low, low), dtype=np.float32) if logits is None else logits
            logits[row] = prepared.mask_logits
            hints.append(row)
        if not prompts:
            return []
        if hints and len(hints) < len(prompts):
            raise InputError("some prompts have a mask and others have none; call predict_many for each kind")
        return [
            self._prediction(found, ious, shape, return_logits)
            for found, ious in zip(*self._decode(points, labels, logits, multimask), strict=True)
        ]

    def _prediction(
        self, logits: np.ndarray, ious: np.ndarray, shape: tuple[int, ...], return_logits: bool
    ) -> Prediction:
        full = resize_bilinear(logits, shape[0], shape[1])
        return Prediction(full if return_logits else full > 0, ious, logits.clip(-LOGIT_LIMIT, LOGIT_LIMIT))


def _chosen(candidates: Candidates, multimask: bool) -> tuple[np.ndarray, np.ndarray]:
    """The three alternatives, or the single mask with the stability fallback: logits (N, M, ...) and IoUs (N, M)."""
    logits, ious = candidates
    if multimask:
        return logits[:, 1:], ious[:, 1:]
    single = logits[:, 0]
    inner = np.count_nonzero(single > STABILITY_DELTA, axis=(1, 2))
    outer = np.count_nonzero(single > -STABILITY_DELTA, axis=(1, 2))
    best = np.where(inner >= STABILITY_THRESHOLD * outer, 0, ious[:, 1:].argmax(axis=1) + 1)
    rows = np.arange(len(best))
    return logits[rows, best][:, None], ious[rows, best][:, None]


def _logits(values: object, low: int, name: str) -> np.ndarray:
    """A `mask_input` as float32 (low, low).

    Raises:
        InputError: it has another shape, or holds no finite numbers.
    """
    try:
        array = np.asarray(values, dtype=np.float32)
    except (TypeError, ValueError):
        raise InputError(f"`mask_input` of the {name} is not an array of numbers") from None
    if array.shape not in ((low, low), (1, low, low)):
        raise InputError(
            f"`mask_input` of the {name} has shape {array.shape}; give logits ({low}, {low}) of an earlier prediction, "
            "`prediction.mask_logits[prediction.best]`"
        )
    if not np.isfinite(array).all():
        raise InputError(f"`mask_input` of the {name} holds NaN or infinity; give logits of an earlier prediction")
    return array.reshape(low, low)
