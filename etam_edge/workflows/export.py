"""A checkpoint becomes a bundle of static ONNX graphs, verified against the PyTorch model."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from etam_edge.bundle import Bundle, check_target, sha256_of
from etam_edge.bundle.targets import find_target
from etam_edge.errors import InputError
from etam_edge.exporters.attention_roofline import attention_for
from etam_edge.recipe import FP16, FP32, Recipe
from etam_edge.spec import MODELS, NANO, GraphSizes, Pooling, find_spec
from etam_edge.workflows.clips import PathLike
from etam_edge.workflows.packages import export_packages
from etam_edge.workflows.progress import ProgressCallback, Stage
from etam_edge.workflows.quantize import OLDEST_TENSORRT, plan_quantization

if TYPE_CHECKING:
    from etam_edge.calibration.recording import Recording
    from etam_edge.media.datasets import Clip

OWN, COARSE = "own", "2x2"
"""How memory attention is pooled: as the variant is, or 2x2."""
APPROXIMATION = "memory attention pooled 2x2 (Lemma 1), with weights that were trained unpooled"


def export(
    model: str | None = None,
    checkpoint: PathLike | None = None,
    output: PathLike | None = None,
    *,
    precision: Recipe | str = FP32,
    calibration: PathLike | Sequence[Clip] | Recording | None = None,
    prompts: PathLike | None = None,
    float_precision: str = FP16,
    regions: Mapping[str, str] | None = None,
    max_drop: float | None = None,
    clips: PathLike | Sequence[Clip] | None = None,
    pool: str = OWN,
    conditioning_frames: int = 2,
    max_points: int = 16,
    frame_size: tuple[int, int] | None = None,
    padded_windows: bool = False,
    cross_attention: str | None = None,
    target: str | None = None,
    oldest_tensorrt: str | None = None,
    overwrite: bool = False,
    progress: ProgressCallback | None = None,
) -> Bundle:
    """Export a checkpoint to a bundle. Needs the packages of `pip install "etam-edge[export]"`, PyTorch among them.

    The four graphs are traced in fp32 and compared with the PyTorch model on a short stream; for another precision,
    `etam_edge.quantize` then converts them. All arguments are checked before the weights are read.

    Args:
        model: name of a variant (`etam-edge models` lists them); None for the one that `checkpoint` is named after, or
            without a checkpoint for `etam_nano`, which is part of the package.
        checkpoint: file of weights, as the reference publishes them; None downloads an official model's.
        output: directory of the bundle; None for `bundles/MODEL-PRECISION` in the working directory.
        precision: "fp32", "fp16", "int8", "mixed" or a `Recipe`, as of `etam_edge.quantize`.
        calibration, prompts, float_precision, regions, max_drop, clips, oldest_tensorrt: as of `etam_edge.quantize`.
            Where it is None, the oldest TensorRT is that of `target`.
        pool: "own", or "2x2" to pool the memory of a variant that was trained unpooled, which is an approximation.
        conditioning_frames: prompted frames that an object's memory holds. Up to this many, results equal the
            reference's, which keeps all of them.
        max_points: points that one prompt may have; a box takes two.
        frame_size: (height, width) of a camera: the graphs then take its frames and give masks of that size, and no
            other. None for frames of any size, which are resized on the host.
        padded_windows: fill up ViT windows at the border, which is more work in fewer kernels.
        cross_attention: form of memory cross-attention in `track`, "whole", "blocks" or "fused"
            (`etam_edge.spec.CrossAttention`); None for the one that is estimated to be fastest on `target`, and for
            "whole" without a target. Results are the same to rounding error.
        target: kind of machine that engines will be built for (`etam_edge.bundle.targets.TARGETS`); it chooses the form
            of memory cross-attention.
        overwrite: replace a bundle that is there.
        progress: told of the stage "export", then of those of `etam_edge.quantize`.

    Returns:
        the bundle. `manifest.verification` holds the largest difference of each output from the PyTorch model.

    Raises:
        InputError: an argument cannot be used, or the output is taken or cannot be written.
        CheckpointError: the checkpoint is missing, damaged, of another model, or cannot be downloaded.
        ExportError: the graphs are not static, or do not compute what the PyTorch model computes.
        RuntimeUnavailableError: a package is missing.
    """
    if pool not in (OWN, COARSE):
        raise InputError(f"`pool={pool}` is not known; use {OWN} or {COARSE}")
    sizes = GraphSizes(conditioning_frames, max_points, frame_size, padded_windows)
    file = None if checkpoint is None else Path(checkpoint)
    spec = find_spec(_model_name(model, file))
    if pool == COARSE and spec.pooled:
        raise InputError(f"{spec.name} is pooled already; leave out `pool={COARSE}`")
    exported = spec.replace(pooling=Pooling.SCORE_BIAS) if pool == COARSE else spec
    attention = attention_for(cross_attention, target, exported, sizes)
    sizes = dataclasses.replace(sizes, **dataclasses.asdict(attention))
    if oldest_tensorrt is None:
        oldest_tensorrt = OLDEST_TENSORRT if target is None else find_target(target).tensorrt[0]
    plan = plan_quantization(
        calibration, precision, prompts, float_precision, regions, max_drop, clips, oldest_tensorrt
    )
    suffix = f"-pool{COARSE}" if pool == COARSE else ""
    if frame_size is not None:
        suffix += f"-{frame_size[1]}x{frame_size[0]}"
    name = f"{spec.name}{suffix}-{FP32 if plan is None else plan.precision}"
    destination = Path(output) if output is not None else Path("bundles") / name
    check_target(destination, overwrite)
    if plan is not None:
        plan.check_clips(spec, sizes, "the bundle to export")

    with export_packages("export"):
        from etam_edge.exporters.checkpoints import fetch_checkpoint, load_model
        from etam_edge.exporters.export import STEPS, export_bundle, pooled

    if file is None:
        file = fetch_checkpoint(spec.name)
    network = load_model(spec, file)
    if pool == COARSE:
        network = pooled(network)
    source = {"name": file.name, "sha256": sha256_of(file)}
    with tempfile.TemporaryDirectory(prefix="etam-edge-") as folder:
        place = destination if plan is None else Path(folder) / "fp32"
        steps = Stage(progress, "export", len(STEPS))
        begun = 0

        def begin(step: str) -> None:
            nonlocal begun
            steps.update(begun, step)
            begun += 1

        approximation = APPROXIMATION if pool == COARSE else None
        bundle = export_bundle(network, place, sizes, source, approximation, overwrite, begin)
        steps.update(len(STEPS))
        return bundle if plan is None else plan.carry_out(bundle, destination, overwrite, progress)


def _model_name(model: str | None, checkpoint: Path | None) -> str:
    if model is not None:
        return model
    if checkpoint is None:
        return NANO.name
    if checkpoint.stem in MODELS:
        return checkpoint.stem
    raise InputError(
        f"the model of {checkpoint} cannot be told from its name; add `model=NAME` (etam-edge models lists them)"
    )
