"""The PyTorch model's answer to the fixed stream of `etam_edge.runtimes.answer`, which its bundle must give as well."""

from __future__ import annotations

from etam_edge.bundle import Answer, Bundle
from etam_edge.errors import ExportError
from etam_edge.model.efficienttam import EfficientTAM
from etam_edge.model.reference_tracker import ReferenceTracker
from etam_edge.recipe import FP32
from etam_edge.runtimes.answer import (
    FRAMES,
    MODEL,
    TOLERANCE,
    answer_from,
    bundle_answer,
    difference,
    frame_size,
    stream_frame,
    stream_prompts,
)
from etam_edge.runtimes.backends.onnxruntime.backend import OnnxRuntimeBackend
from etam_edge.runtimes.prompts import prepare
from etam_edge.runtimes.resample import resize_frame
from etam_edge.spec import GraphSizes


def model_answer(model: EfficientTAM, sizes: GraphSizes) -> Answer:
    """Track the stream with the PyTorch model, whose memory is organised as in the reference.

    Args:
        model: in evaluation mode, float32, on the CPU.
        sizes: of the graphs, for the size of the frames.
    """
    spec = model.spec
    height, width = frame_size(spec, sizes)
    prompts = {}
    for object_id, prompt in stream_prompts(height, width).items():
        prepared = prepare(prompt, object_id, (height, width), spec, sizes)
        used = slice(prepared.count)
        prompts[object_id] = {"points": prepared.points[used], "labels": prepared.labels[used]}
    tracker = ReferenceTracker(model, max_conditioning_frames=sizes.conditioning_frames)
    frames = []
    for index in range(FRAMES):
        frame = resize_frame(stream_frame(index, height, width), spec.image_size)
        memories = tracker.track(frame.copy(), prompts if index == 0 else None)
        frames.append([memories[object_id].segmentation for object_id in prompts])
    return answer_from(
        MODEL,
        [[float(one.score) for one in row] for row in frames],
        [[float(one.iou) for one in row] for row in frames],
        [[one.pointer[0].numpy() for one in row] for row in frames],
        [[one.mask_logits[0, 0].numpy() for one in row] for row in frames],
    )


def check_against_model(bundle: Bundle, expected: Answer) -> None:
    """Check that a bundle gives the model's answer: graphs, host and manifest together.

    Raises:
        ExportError: it gives another one.
    """
    found = difference(bundle_answer(bundle, OnnxRuntimeBackend(bundle, provider="cpu")), expected)
    if not found <= TOLERANCE[FP32]:
        raise ExportError(
            f"the bundle does not track as the PyTorch model does: its answer to a fixed stream differs by {found:.2g} "
            f"of its size (allowed {TOLERANCE[FP32]}); nothing was written"
        )
