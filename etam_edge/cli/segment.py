"""`etam-edge segment`: masks of prompts on images, or of everything in them."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from etam_edge.cli.region import NOTHING_FOUND, as_region
from etam_edge.cli.threads import THREADS
from etam_edge.errors import InputError

if TYPE_CHECKING:
    from etam_edge.runtimes import EverythingOptions


def segment(
    bundle: Annotated[Path, typer.Argument(help="Directory that export wrote.")],
    images: Annotated[str, typer.Argument(help="Image, folder of images, or video.")],
    point: Annotated[list[str] | None, typer.Option(help="X,Y on the object; repeatable.")] = None,
    negative_point: Annotated[list[str] | None, typer.Option(help="X,Y off the object; repeatable.")] = None,
    box: Annotated[
        list[str] | None, typer.Option(help="X0,Y0,X1,Y1 around an object; repeatable, one object each.")
    ] = None,
    mask: Annotated[
        Path | None, typer.Option(help="Image of the object, as a hint; a palette may hold several.")
    ] = None,
    everything: Annotated[bool, typer.Option("--everything", help="All objects, found by a grid of points.")] = False,
    points_per_side: Annotated[int, typer.Option(help="Points along one side of the grid.")] = 32,
    pred_iou_thresh: Annotated[float, typer.Option(help="Drop masks with a lower predicted IoU.")] = 0.8,
    stability_score_thresh: Annotated[float, typer.Option(help="Drop masks that are less stable.")] = 0.95,
    box_nms_thresh: Annotated[float, typer.Option(help="Drop the worse of two boxes with a larger IoU.")] = 0.7,
    crop_n_layers: Annotated[int, typer.Option(help="Layers of crops, for small objects.")] = 0,
    min_mask_region_area: Annotated[int, typer.Option(help="Remove holes and parts of up to this size.")] = 0,
    region: Annotated[str | None, typer.Option(help="X0,Y0,X1,Y1: no points outside.")] = None,
    max_area: Annotated[float, typer.Option(help="Largest share of the image that a mask may cover.")] = 1.0,
    top_k: Annotated[int | None, typer.Option(help="Keep the best masks only.", show_default="all")] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Folder for pictures.", show_default="IMAGES_segmented if nothing else is written"),
    ] = None,
    masks: Annotated[Path | None, typer.Option(help="Folder for PNG masks: a pixel's value is the object.")] = None,
    coco: Annotated[Path | None, typer.Option(help="COCO JSON file with RLE masks.")] = None,
    yolo: Annotated[Path | None, typer.Option(help="Folder for YOLO segmentation labels.")] = None,
    labelme: Annotated[Path | None, typer.Option(help="Folder for LabelMe annotations.")] = None,
    scores: Annotated[
        Path | None, typer.Option(help="JSON lines file of boxes and IoUs; - is standard output.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace outputs that are there.")] = False,
    max_images: Annotated[int | None, typer.Option(min=1, help="Stop after this many images.")] = None,
    runtime: Annotated[str, typer.Option(help="auto, onnxruntime, openvino, tensorrt or tensorrt-rtx.")] = "auto",
    provider: Annotated[str, typer.Option(help="ONNX Runtime provider: cpu, cuda or auto.")] = "auto",
    threads: Annotated[int | None, typer.Option(help="CPU threads.", **THREADS)] = None,
) -> None:
    """Segment prompted objects, or everything, in images; write pictures, masks and data sets."""
    from etam_edge.cli.console import err, next_command, out, showing_progress
    from etam_edge.media.prompt_files import plan_prompts
    from etam_edge.media.sinks.image_request import ImageOutputRequest
    from etam_edge.runtimes import EverythingOptions, Prompt, Segmenter
    from etam_edge.workflows.segment import segment as segment_images

    options: EverythingOptions | None = None
    prompts: list[Prompt] | None = None
    if everything:
        if point or negative_point or box or mask:
            raise InputError("`everything` needs no prompt; leave out `point`, `negative_point`, `box` and `mask`")
        options = EverythingOptions(
            points_per_side=points_per_side,
            pred_iou_thresh=pred_iou_thresh,
            stability_score_thresh=stability_score_thresh,
            box_nms_thresh=box_nms_thresh,
            crop_n_layers=crop_n_layers,
            min_mask_region_area=min_mask_region_area,
            region=as_region(region),
            max_area=max_area,
            top_k=top_k,
        )
    elif not (point or negative_point or box or mask):
        raise InputError("no object was prompted; add `point=X,Y`, `box=X0,Y0,X1,Y1` or `mask=FILE`, or `everything`")
    else:
        boxes: list[str | None] = [*box] if box else [None]
        if len(boxes) > 1 and (point or negative_point):
            raise InputError("`point` and `negative_point` belong to one object, and there are several `box`; use one")
        plans = [plan_prompts(point or [], negative_point or [], one, mask, None) for one in boxes]
        prompts = [planned.prompt for plan in plans for planned in plan.planned]
    request = ImageOutputRequest(output, masks, scores, overwrite, coco=coco, yolo=yolo, labelme=labelme)
    if request.is_empty:
        request = ImageOutputRequest(Path(f"{Path(images).stem}_segmented"), overwrite=overwrite)
    segmenter = Segmenter.load(bundle, runtime, provider=provider, threads=threads)
    with showing_progress() as progress:
        result = segment_images(
            segmenter,
            images,
            request,
            prompts,
            options,
            prompt_files=[] if mask is None else [mask],
            max_images=max_images,
            progress=progress,
        )
    console = err if request.takes_standard_output else out
    image_count = "1 image" if result.images == 1 else f"{result.images} images"
    mask_count = "1 mask" if result.masks == 1 else f"{result.masks} masks"
    console.print(
        f"{image_count}, {mask_count}, {result.seconds / result.images:.2f} s an image, {segmenter.runtime}",
        markup=False,
    )
    if everything and not result.masks:
        console.print(f"  {NOTHING_FOUND}")
    for path in result.files:
        console.print(f"  {path}", markup=False)
    if result.shortfall:
        raise InputError(f"{images} was not read whole: {result.shortfall}; the outputs hold what was read")
    if not request.takes_standard_output:
        again = shlex.join(["etam-edge", "track", str(bundle)])
        next_command(f"{again} VIDEO --point X,Y   (the same through a video)")
