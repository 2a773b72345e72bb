"""`etam-edge track`: track prompted objects through a video, a folder of images, a camera or a stream."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from etam_edge.cli.region import NOTHING_FOUND, as_region
from etam_edge.cli.source_options import (
    SOURCE_HELP,
    DepthRangeOption,
    EndOption,
    PixelFormatOption,
    SizeOption,
    StartOption,
    source_options,
)
from etam_edge.cli.threads import THREADS
from etam_edge.errors import EtamError, InputError
from etam_edge.interrupts import exit_code

if TYPE_CHECKING:
    from etam_edge.media.prompt_plan import PromptPlan
    from etam_edge.media.proposals import ProposingRunner
    from etam_edge.media.sinks import Outputs
    from etam_edge.media.sources import FrameSource
    from etam_edge.runtimes import Session


def track(
    bundle: Annotated[Path, typer.Argument(help="Directory that export wrote.")],
    source: Annotated[str, typer.Argument(help=SOURCE_HELP)],
    point: Annotated[list[str] | None, typer.Option(help="X,Y on the object, first frame; repeatable.")] = None,
    negative_point: Annotated[list[str] | None, typer.Option(help="X,Y off the object; repeatable.")] = None,
    box: Annotated[str | None, typer.Option(help="X0,Y0,X1,Y1 around the object, first frame.")] = None,
    mask: Annotated[
        Path | None, typer.Option(help="Image of the object, first frame; a palette may hold several.")
    ] = None,
    prompts: Annotated[Path | None, typer.Option(help="JSON file: several objects, frames, corrections.")] = None,
    everything: Annotated[
        bool, typer.Option("--everything", help="Track everything that is found in the first frame.")
    ] = False,
    propose: Annotated[
        int | None, typer.Option(min=1, help="As --everything, and search again every N frames.", metavar="N")
    ] = None,
    max_objects: Annotated[
        int | None, typer.Option(min=1, help="Cap on objects of --everything and --propose.", show_default="50")
    ] = None,
    points_per_side: Annotated[int, typer.Option(help="Points along one side of the grid of --everything.")] = 16,
    pred_iou_thresh: Annotated[float, typer.Option(help="--everything drops masks with a lower predicted IoU.")] = 0.8,
    stability_score_thresh: Annotated[
        float, typer.Option(help="--everything drops masks that are less stable.")
    ] = 0.95,
    region: Annotated[str | None, typer.Option(help="X0,Y0,X1,Y1: --everything looks nowhere else.")] = None,
    max_area: Annotated[
        float, typer.Option(help="Largest share of a frame that an object of --everything may cover.")
    ] = 0.5,
    output: Annotated[
        Path | None,
        typer.Option(help="Overlay video, .mp4.", show_default="SOURCE_tracked.mp4 if nothing else is written"),
    ] = None,
    masks: Annotated[Path | None, typer.Option(help="Folder for PNG masks in DAVIS palette layout.")] = None,
    scores: Annotated[Path | None, typer.Option(help="JSON lines file of scores; - is standard output.")] = None,
    coco: Annotated[Path | None, typer.Option(help="COCO JSON file with RLE masks and track ids.")] = None,
    mots: Annotated[Path | None, typer.Option(help="MOTS text file.")] = None,
    yolo: Annotated[Path | None, typer.Option(help="Folder for YOLO segmentation labels.")] = None,
    labelme: Annotated[Path | None, typer.Option(help="Folder for LabelMe annotations.")] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace outputs that are there, and remove earlier masks.")
    ] = False,
    max_frames: Annotated[int | None, typer.Option(min=1, help="Stop after this many frames.")] = None,
    start: StartOption = None,
    end: EndOption = None,
    depth_range: DepthRangeOption = None,
    size: SizeOption = None,
    pixel_format: PixelFormatOption = None,
    corrections_condition: Annotated[
        bool,
        typer.Option("--corrections-condition", help="Corrected frames become conditioning frames, as in SAM 2.1."),
    ] = False,
    resize: Annotated[
        str, typer.Option(help="How the host resizes: exact, as the reference does, or fast, with OpenCV.")
    ] = "exact",
    runtime: Annotated[str, typer.Option(help="auto, onnxruntime, openvino, tensorrt or tensorrt-rtx.")] = "auto",
    provider: Annotated[str, typer.Option(help="ONNX Runtime provider: cpu, cuda or auto.")] = "auto",
    threads: Annotated[int | None, typer.Option(help="CPU threads.", **THREADS)] = None,
) -> None:
    """Track prompted objects through a video, a folder of images, a camera or a stream."""
    from etam_edge.cli.console import err, next_command, out
    from etam_edge.media.playback import check_reach
    from etam_edge.media.prompt_files import plan_prompts
    from etam_edge.media.prompt_plan import PromptPlan
    from etam_edge.media.proposals import ProposalOptions, ProposingRunner
    from etam_edge.media.sinks import OutputRequest
    from etam_edge.media.sources import open_source, shown_source
    from etam_edge.runtimes import EverythingOptions, Segmenter, Tracker

    # Everything that can be checked is checked before the bundle is loaded, and the rest before the first frame.
    proposals: ProposalOptions | None = None
    if everything or propose is not None:
        grid = EverythingOptions(
            points_per_side=points_per_side,
            pred_iou_thresh=pred_iou_thresh,
            stability_score_thresh=stability_score_thresh,
            region=as_region(region),
            max_area=max_area,
        )
        proposals = ProposalOptions(propose, max_objects or ProposalOptions.max_objects, grid)
    elif max_objects is not None or region is not None:
        raise InputError("`max_objects` and `region` belong to `everything` or `propose=N`; add one of these")
    prompted = bool(point or negative_point or box or mask or prompts)
    plan = PromptPlan([])
    if prompted or proposals is None:
        plan = plan_prompts(point or [], negative_point or [], box, mask, prompts)
    frames = open_source(source, source_options(start, end, depth_range, size, pixel_format))
    source = shown_source(source)
    check_reach(plan, frames, max_frames)
    request = OutputRequest(output, masks, scores, overwrite, coco, mots, yolo, labelme)
    if request.is_empty:
        request = OutputRequest(Path(f"{frames.stem}_tracked.mp4"), overwrite=overwrite)
    request.check(frames.path, plan.files, plan.object_ids)
    tracker = Tracker.load(bundle, runtime=runtime, provider=provider, threads=threads)
    tracker.bundle.check_frame_shape(frames.frame_shape, source)
    plan.check_prompts(frames.frame_shape, tracker.spec, tracker.bundle.manifest.sizes)
    count = len(plan.object_ids) if proposals is None else max(proposals.max_objects, len(plan.object_ids))
    session = tracker.start_session(corrections_condition, max_objects=count, resize=resize)
    proposer: ProposingRunner | None = None
    if proposals is not None:
        proposer = ProposingRunner(session, Segmenter(tracker.bundle, tracker.backend), proposals)

    run = _Run(session, plan, proposer)
    ending = run.perform(
        frames,
        max_frames,
        lambda: request.open(
            frames.frames_per_second,
            frames.frame_shape,
            plan.object_ids,
            plan.labels,
            frames.path if frames.path is not None and frames.path.is_dir() else None,
        ),
    )
    if ending.failure:
        places = ", ".join(map(str, ending.kept))
        kept = f"; kept: {_frames(run.count)} in {places}" if ending.kept else ""
        raise type(ending.failure)(f"{ending.failure}{kept}") from ending.failure
    # Lines of scores on standard output are for another program to read.
    console = err if request.takes_standard_output else out
    if not err.is_terminal:
        err.print(f"track: {run.pace()}")
    console.print(f"{'interrupted; ' if ending.interrupt else ''}{run.summary()}, {tracker.runtime}")
    for path in ending.kept:
        console.print(f"  {path}")
    if frames.depth_range is not None:
        low, high = frames.depth_range
        console.print(f"  counts {low:g} to {high:g} became grey levels 0 to 255 (--depth-range)")
    missing = "" if frames.ending is None else frames.ending.shortfall()
    if ending.interrupt:
        if missing:
            console.print(f"  {missing}")
        raise typer.Exit(exit_code(ending.interrupt))
    if missing:
        raise InputError(
            f"{source} was not read whole: {missing}; the outputs hold the {_frames(run.count)} that were read"
        )
    if proposer is not None and not proposer.found:
        console.print(f"  {NOTHING_FOUND}")
    for note in _shortfalls(run.count, plan, frames, max_frames):
        console.print(f"  {note}")
    if request.takes_standard_output:
        return
    if prompts is None:
        again = shlex.join(["etam-edge", "track", str(bundle), source, "--prompts", "FILE.json"])
        next_command(f"{again}   (more objects, later frames, corrections)")
    else:
        next_command(f"{shlex.join(['etam-edge', 'inspect', str(bundle)])}   (sizes, precision, origin of the bundle)")


def _frames(count: int) -> str:
    return "1 frame" if count == 1 else f"{count} frames"


def _shortfalls(count: int, plan: PromptPlan, frames: FrameSource, max_frames: int | None) -> Iterator[str]:
    """Notes about frames that the source announced, or that have prompts, and that did not come."""
    expected = min((n for n in (frames.length, max_frames) if n is not None), default=0)
    if count < expected:
        yield f"the source announces {_frames(frames.length or 0)} and gave {count}; it may be cut short or damaged"
    if plan.last_frame >= count:
        yield f"the prompt for frame {plan.last_frame} was never reached"


@dataclass
class _Ending:
    """How a run ended.

    Attributes:
        interrupt: Ctrl-C or another signal that stopped it.
        failure: the first error.
        kept: paths of the outputs that were completed, with all frames processed until then.
    """

    interrupt: KeyboardInterrupt | None = None
    failure: EtamError | None = None
    kept: list[Path] = field(default_factory=list)


class _Run:
    """One pass over a source.

    Args:
        session: new.
        plan: prompts.
        proposer: tracks frames and finds more objects, or None.

    Attributes:
        count: number of frames that were tracked and written.
    """

    def __init__(self, session: Session, plan: PromptPlan, proposer: ProposingRunner | None = None) -> None:
        self._session = session
        self._plan = plan
        self._proposer = proposer
        self.count = 0
        self._with_objects = 0
        self._invisible = 0
        self._seconds = 0.0

    def perform(self, frames: FrameSource, max_frames: int | None, open_outputs: Callable[[], Outputs]) -> _Ending:
        """Track all frames. However the run ends, outputs are completed with the frames written so far, or removed."""
        ending = _Ending()
        outputs: Outputs | None = None
        try:
            with open_outputs() as outputs:
                try:
                    self._track(frames, max_frames, outputs)
                except EtamError as error:
                    ending.failure = error
        except KeyboardInterrupt as interrupt:
            ending.interrupt = interrupt
        except EtamError as error:
            ending.failure = ending.failure or error
        if outputs is not None:
            self.count, ending.kept = outputs.count, outputs.kept
        return ending

    def pace(self) -> str:
        """Frames, and frames per second of those that had objects: the others were not tracked."""
        text = f"{_frames(self.count)}, {self._rate():.1f} frames/s"
        return text if self._with_objects == self.count else f"{text} on {_frames(self._with_objects)} with objects"

    def summary(self) -> str:
        objects = len(self._plan.object_ids) + (0 if self._proposer is None else self._proposer.found)
        text = self.pace().replace(", ", f", {objects} object{'s' if objects != 1 else ''}, ", 1)
        return f"{text}, none visible on {_frames(self._invisible)}" if self._invisible else text

    def _rate(self) -> float:
        return self._with_objects / self._seconds if self._seconds else 0.0

    def _track(self, frames: FrameSource, max_frames: int | None, outputs: Outputs) -> None:
        """
        Raises:
            EtamError: a frame cannot be read, tracked or written.
        """
        from etam_edge.cli.console import frame_progress
        from etam_edge.media.playback import play, track_frame

        begin = time.perf_counter()
        runner = self._proposer or partial(track_frame, self._session)
        total = min((n for n in (frames.length, max_frames) if n is not None), default=None)
        with frame_progress() as bar:
            task = bar.add_task("track", total=total)
            for played, (result,) in play(frames, self._plan, [runner], max_frames):
                if len(result):
                    self._with_objects += 1
                    self._invisible += not result.visible.any()
                outputs.write(played.frame, result)
                begin, previous = time.perf_counter(), begin
                self._seconds += (begin - previous) * bool(len(result))
                bar.update(task, completed=outputs.count, total=total and max(total, outputs.count))
        if not outputs.count:
            raise InputError("the source gave no frame; check that it is not empty or in use")
