"""A bundle's answer to a fixed stream of frames and prompts, and its comparison with the one in the manifest.

Hashes show that files are as they were written. They do not show that the graphs compute what the manifest says: a
manifest that names another pooling, for example, tracks without an error and gives other masks. The answer of an fp32
bundle is computed by the PyTorch model that is exported, that of any other precision by its own graphs when they are
written.

The stream is made of whole numbers only, so that every machine draws the same frames. Two objects, one by a box and one
by a click, are tracked for five frames: the second frame reads a single memory, the later ones several.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from etam_edge.bundle import Answer, Bundle
from etam_edge.errors import BundleError
from etam_edge.recipe import FP16, FP32, INT8
from etam_edge.runtimes.backends.base import Backend
from etam_edge.runtimes.session import Session
from etam_edge.runtimes.types import Prompt
from etam_edge.spec import GraphSizes, ModelSpec

STREAM = 1
"""Version of the stream. An answer to another one is not compared."""
FRAMES = 5
GRID = 8
"""Mask logits that are kept: GRID x GRID of each object and frame."""
POINTER_NUMBERS = 16
MODEL, GRAPHS = "model", "graphs"
TOLERANCE = {FP32: 0.02, FP16: 0.1, INT8: 0.2}
"""Largest median of the relative difference over objects and frames, by the narrowest precision of the bundle."""
DIGITS = 7


def stream_frame(index: int, height: int, width: int) -> np.ndarray:
    """A frame of the stream, uint8 (height, width, 3): a bright square that moves over a texture."""
    y, x = np.mgrid[0:height, 0:width].astype(np.int64)
    y, x = y * 1024 // height, x * 1024 // width
    texture = (x * 37 // 64 + y * 23 // 64 + (x * y) // 2048) % 160 + (x // 128 + y // 128) % 2 * 40
    left, top = 300 + 24 * index, 260 + 16 * index
    square = (x >= left) & (x < left + 320) & (y >= top) & (y < top + 280)
    channels = [np.where(square, bright, texture * share // 8) for bright, share in ((236, 8), (210, 7), (64, 5))]
    return np.stack(channels, axis=-1).astype(np.uint8)


def stream_prompts(height: int, width: int) -> dict[int, Prompt]:
    """Prompts of the first frame: a box around the square, and a click beside it."""
    return {
        1: Prompt(box=(width * 300 // 1024, height * 260 // 1024, width * 620 // 1024, height * 540 // 1024)),
        2: Prompt(points=[(width * 800 // 1024, height * 760 // 1024)], labels=[1]),
    }


def frame_size(spec: ModelSpec, sizes: GraphSizes) -> tuple[int, int]:
    """(H, W) of the stream's frames: the size that `encode` reads, so that nothing is resized on the host."""
    return sizes.frame_size or (spec.image_size, spec.image_size)


def answer_from(
    origin: str,
    scores: Sequence[Sequence[float]],
    ious: Sequence[Sequence[float]],
    pointers: Sequence[Sequence[np.ndarray]],
    logits: Sequence[Sequence[np.ndarray]],
) -> Answer:
    """An answer from the outputs of every frame and object.

    Args:
        origin: MODEL or GRAPHS.
        scores, ious: numbers.
        pointers: float (D,).
        logits: float (S/4, S/4).
    """

    def rounded(values: np.ndarray) -> list[float]:
        return [float(f"{value:.{DIGITS}g}") for value in np.asarray(values, dtype=np.float64).reshape(-1)]

    def grid(values: np.ndarray) -> np.ndarray:
        places = np.arange(GRID) * len(values) // GRID + len(values) // (2 * GRID)
        return values[np.ix_(places, places)]

    return Answer(
        stream=STREAM,
        origin=origin,
        scores=[rounded(np.array(row)) for row in scores],
        ious=[rounded(np.array(row)) for row in ious],
        pointers=[[rounded(one[:POINTER_NUMBERS]) for one in row] for row in pointers],
        logits=[[rounded(grid(one)) for one in row] for row in logits],
    )


def bundle_answer(bundle: Bundle, backend: Backend) -> Answer:
    """Track the stream with a bundle.

    Raises:
        EtamError: a graph failed, or (NotFiniteError) its output is NaN or infinite.
    """
    height, width = frame_size(bundle.manifest.model, bundle.manifest.sizes)
    prompts = stream_prompts(height, width)
    results, pointers = [], []
    with Session(backend, bundle, max_objects=len(prompts)) as session:
        for index in range(FRAMES):
            frame = stream_frame(index, height, width)
            results.append(session.track(frame, prompts if index == 0 else None))
            pointers.append([session.object_pointer(object_id) for object_id in prompts])
    return answer_from(
        GRAPHS,
        [result.object_scores.tolist() for result in results],
        [result.ious.tolist() for result in results],
        pointers,
        [list(result.mask_logits) for result in results],
    )


def difference(answer: Answer, expected: Answer) -> float:
    """How far two answers are apart: the median over objects and frames of the largest relative difference of a part.

    The difference of a part is its root mean square, divided by that of the expected values or by 1, whichever is
    larger. Where two mask candidates are nearly equal, rounding decides which one an object gets, and with it all of
    its later frames; these are less than half of the stream.

    Raises:
        ValueError: the answers have other shapes.
    """
    parts = [
        (np.atleast_3d(np.array(mine, dtype=np.float64)), np.atleast_3d(np.array(theirs, dtype=np.float64)))
        for mine, theirs in (
            (answer.scores, expected.scores),
            (answer.ious, expected.ious),
            (answer.pointers, expected.pointers),
            (answer.logits, expected.logits),
        )
    ]
    if any(mine.shape != theirs.shape or mine.ndim != 3 for mine, theirs in parts):
        raise ValueError("the answers have other shapes")
    found = [_rms(mine - theirs) / np.maximum(1.0, _rms(theirs)) for mine, theirs in parts]
    return float(np.median(np.max(found, axis=0)))


def check_answer(bundle: Bundle, backend: Backend) -> float:
    """Compare a bundle's answer with the one in its manifest.

    Returns:
        the difference.

    Raises:
        BundleError: the manifest has no answer, or they differ by more than rounding does.
    """
    stored = bundle.manifest.answer
    if stored is None or stored.stream != STREAM:
        raise BundleError(f"{bundle.path} holds no answer to compare with; export it again with this version")
    try:
        found = difference(bundle_answer(bundle, backend), stored)
    except ValueError as error:
        raise BundleError(
            f"the answer in the manifest of {bundle.path} is damaged ({error}); export it again"
        ) from error
    allowed = TOLERANCE[bundle.manifest.recipe.precision]
    # NaN passes no comparison.
    if not found <= allowed:
        raise BundleError(
            f"the graphs of {bundle.path} do not compute what its manifest says: their answer to a fixed stream "
            f"differs by {found:.2g} of its size (allowed {allowed}); export the bundle again"
        )
    return found


def _rms(values: np.ndarray) -> np.ndarray:
    """Root mean square over the last axis."""
    return np.sqrt(np.mean(values**2, axis=-1))
