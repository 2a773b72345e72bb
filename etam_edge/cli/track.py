"""`etam-edge track`: a bundle, frames and prompts to masks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from etam_edge.errors import EtamError, InputError

if TYPE_CHECKING:
    from etam_edge.cli.outputs import Output
    from etam_edge.cli.prompts import PromptPlan
    from etam_edge.cli.sources import FrameSource
    from etam_edge.runtimes import Session


def track(
    bundle: Annotated[Path, typer.Argument(help="Directory that export wrote.")],
    source: Annotated[str, typer.Argument(help="Video file, folder of images, or camera number.")],
    point: Annotated[list[str] | None, typer.Option(help="X,Y on the object, first frame; repeatable.")] = None,
    negative_point: Annotated[list[str] | None, typer.Option(help="X,Y off the object; repeatable.")] = None,
    box: Annotated[str | None, typer.Option(help="X0,Y0,X1,Y1 around the object, first frame.")] = None,
    mask: Annotated[
        Path | None, typer.Option(help="Image of the object, first frame; a palette may hold several.")
    ] = None,
    prompts: Annotated[Path | None, typer.Option(help="JSON file: several objects, frames, corrections.")] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Overlay video, .mp4.", show_default="SOURCE_tracked.mp4 if nothing else is written"),
    ] = None,
    masks: Annotated[Path | None, typer.Option(help="Folder for PNG masks in DAVIS palette layout.")] = None,
    scores: Annotated[Path | None, typer.Option(help="JSON lines file of scores.")] = None,
    max_frames: Annotated[int | None, typer.Option(min=1, help="Stop after this many frames.")] = None,
    corrections_condition: Annotated[
        bool,
        typer.Option("--corrections-condition", help="Corrected frames become conditioning frames, as in SAM 2.1."),
    ] = False,
    runtime: Annotated[str, typer.Option(help="auto or onnxruntime.")] = "auto",
    threads: Annotated[int | None, typer.Option(help="CPU threads.", show_default="all cores")] = None,
) -> None:
    """Track prompted objects through a video, a folder of images or a camera."""
    from etam_edge.cli.console import next_command, out
    from etam_edge.cli.prompts import plan_prompts
    from etam_edge.cli.sources import open_source
    from etam_edge.runtimes import Tracker

    # All that can be refused is refused before the first frame is tracked.
    plan = plan_prompts(point or [], negative_point or [], box, mask, prompts)
    frames = open_source(source)
    length = min((n for n in (frames.length, max_frames) if n is not None), default=None)
    if length is not None and plan.last_frame >= length:
        raise InputError(
            f"a prompt is for frame {plan.last_frame}, and frames run from 0 to {length - 1}; give an earlier frame"
        )
    tracker = Tracker.load(bundle, runtime=runtime, threads=threads)
    session = tracker.start_session(corrections_condition, max_objects=len(plan.object_ids))
    outputs = _open_outputs(frames, plan, output, masks, scores)
    run = _Run(session, plan, outputs)
    try:
        run.through(frames, length)
    except KeyboardInterrupt:
        run.close()
        out.print(f"interrupted; {run.summary()}", markup=False)
        raise typer.Exit(130) from None
    except EtamError as error:
        run.close(failed=True)
        kept = f"; the {run.count} frames before it are kept" if run.count else ""
        raise type(error)(f"{error}{kept}") from error
    except BaseException:
        run.discard()
        raise
    run.close()
    out.print(f"{run.summary()}, {tracker.runtime}", markup=False)
    for sink in outputs:
        out.print(f"  {sink.path}", markup=False)
    if plan.last_frame >= run.count:
        out.print(f"  the prompt for frame {plan.last_frame} was never reached", markup=False)
    next_command(f"etam-edge track {bundle} {source} --prompts FILE.json   (more objects, later frames, corrections)")


def _open_outputs(
    frames: FrameSource, plan: PromptPlan, output: Path | None, masks: Path | None, scores: Path | None
) -> list[Output]:
    from etam_edge.cli.outputs import MaskFolder, OverlayVideo, ScoreLines

    if output is None and masks is None and scores is None:
        output = Path(f"{frames.stem}_tracked.mp4")
    outputs: list[Output] = []
    if output is not None:
        outputs.append(OverlayVideo(output, frames.frames_per_second))
    if masks is not None:
        outputs.append(MaskFolder(masks, plan.object_ids))
    if scores is not None:
        outputs.append(ScoreLines(scores))
    return outputs


class _Run:
    """One pass over a source."""

    def __init__(self, session: Session, plan: PromptPlan, outputs: Sequence[Output]) -> None:
        self._session = session
        self._plan = plan
        self._outputs = list(outputs)
        self.count = 0
        self._out_of_sight = 0
        self._seconds = 0.0

    def through(self, frames: FrameSource, length: int | None) -> None:
        """Track and write frame by frame.

        Raises:
            EtamError: a frame cannot be read, tracked or written.
        """
        import time

        from etam_edge.cli.console import frame_progress

        begin = time.perf_counter()
        with frame_progress() as bar:
            task = bar.add_task("track", total=length)
            for index, frame in enumerate(frames):
                if index == length:
                    break
                result = self._session.track(frame.pixels, prompts=self._plan.prompts(index))
                for object_id, prompt in self._plan.corrections(index):
                    result = self._session.refine(object_id, prompt)
                for sink in self._outputs:
                    sink.write(frame, result)
                self.count += 1
                self._seconds = time.perf_counter() - begin
                self._out_of_sight += bool(result.object_ids) and not (result.object_scores > 0).any()
                bar.update(task, advance=1)
        if not self.count:
            raise InputError("the source gave no frame; check that it is not empty or in use")

    def close(self, failed: bool = False) -> None:
        """Complete what was written, or discard what holds no frame. After a failure, a second one is not reported."""
        while self._outputs:
            sink = self._outputs.pop(0)
            if not self.count:
                sink.discard()
                continue
            try:
                sink.close()
            except InputError:
                if not failed:
                    self.discard()
                    raise

    def discard(self) -> None:
        while self._outputs:
            self._outputs.pop().discard()

    def summary(self) -> str:
        objects = len(self._plan.object_ids)
        rate = self.count / self._seconds if self._seconds else 0.0
        text = f"{self.count} frames, {objects} object{'s' if objects > 1 else ''}, {rate:.1f} frames/s"
        return f"{text}, all out of sight on {self._out_of_sight}" if self._out_of_sight else text
