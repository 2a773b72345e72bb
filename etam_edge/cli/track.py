"""`etam-edge track`: track prompted objects through a video, a folder of images or a camera."""

from __future__ import annotations

import shlex
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from etam_edge.cli.threads import THREADS
from etam_edge.errors import EtamError, InputError

if TYPE_CHECKING:
    from rich.console import Console

    from etam_edge.media.prompt_plan import PromptPlan
    from etam_edge.media.sinks import Output
    from etam_edge.media.sources import FrameSource
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
    resize: Annotated[
        str, typer.Option(help="How the host resizes: exact, as the reference does, or fast, with OpenCV.")
    ] = "exact",
    runtime: Annotated[str, typer.Option(help="auto, onnxruntime, openvino, tensorrt or tensorrt-rtx.")] = "auto",
    threads: Annotated[int | None, typer.Option(help="CPU threads.", **THREADS)] = None,
) -> None:
    """Track prompted objects through a video, a folder of images or a camera."""
    from etam_edge.cli.console import err, next_command
    from etam_edge.media.playback import check_reach
    from etam_edge.media.prompt_files import plan_prompts
    from etam_edge.media.sources import open_source
    from etam_edge.runtimes import Tracker

    # Everything that can be checked is checked before the first frame is tracked.
    plan = plan_prompts(point or [], negative_point or [], box, mask, prompts)
    frames = open_source(source)
    check_reach(plan, frames, max_frames)
    if output is None and masks is None and scores is None:
        output = Path(f"{frames.stem}_tracked.mp4")
    _check_overwriting(frames, plan, output, masks, scores)
    tracker = Tracker.load(bundle, runtime=runtime, threads=threads)
    tracker.bundle.check_frame_shape(frames.frame_shape, source)
    plan.check_prompts(frames.frame_shape, tracker.spec, tracker.bundle.manifest.sizes)
    session = tracker.start_session(corrections_condition, max_objects=len(plan.object_ids), resize=resize)

    run = _Run(session, plan)
    ending = run.perform(frames, max_frames, lambda: _open_outputs(frames, plan, output, masks, scores))
    if ending.failure:
        places = ", ".join(map(str, ending.kept))
        kept = f"; kept: {_frames(run.count)} in {places}" if ending.kept else ""
        raise type(ending.failure)(f"{ending.failure}{kept}") from ending.failure
    if not err.is_terminal:
        _print(f"track: {run.pace()}", err)
    _print(f"{'interrupted; ' if ending.interrupted else ''}{run.summary()}, {tracker.runtime}")
    for path in ending.kept:
        _print(f"  {path}")
    if frames.ending is not None and not frames.ending.is_whole:
        raise InputError(
            f"{source} was not read whole: {frames.ending.shortfall()}; the outputs hold the {_frames(run.count)} that "
            "were read"
        )
    if ending.interrupted:
        raise typer.Exit(130)
    for note in _shortfalls(run.count, plan, frames, max_frames):
        _print(f"  {note}")
    if prompts is None:
        again = shlex.join(["etam-edge", "track", str(bundle), source, "--prompts", "FILE.json"])
        next_command(f"{again}   (more objects, later frames, corrections)")
    else:
        next_command(f"{shlex.join(['etam-edge', 'inspect', str(bundle)])}   (sizes, precision, origin of the bundle)")


def _print(text: str, console: Console | None = None) -> None:
    """Print a line without interpreting markup or emoji codes, which paths may contain."""
    from etam_edge.cli.console import out

    (console or out).print(text, markup=False, emoji=False)


def _frames(count: int) -> str:
    return "1 frame" if count == 1 else f"{count} frames"


def _check_overwriting(
    frames: FrameSource, plan: PromptPlan, output: Path | None, masks: Path | None, scores: Path | None
) -> None:
    """
    Raises:
        InputError: an output would overwrite a file that is read, or another output.
    """
    from etam_edge.media.sources import IMAGE_SUFFIXES

    source = frames.path.resolve() if frames.path else None
    read = [source, *(path.resolve() for path in plan.files)]
    for option, path in (("--output", output), ("--scores", scores)):
        if path is None:
            continue
        place = path.resolve()
        if place in read or (place.parent == source and place.suffix.lower() in IMAGE_SUFFIXES):
            raise InputError(f"{option} {path} would overwrite what this run reads; name another file")
    if output is not None and scores is not None and output.resolve() == scores.resolve():
        raise InputError(f"--output and --scores are both {output}; name two files")
    if masks is not None:
        guarded = [source, *(path.resolve().parent for path in plan.files if path.suffix.lower() == ".png")]
        if masks.resolve() in guarded:
            raise InputError(f"--masks {masks} holds what this run reads and might overwrite it; name another folder")


def _open_outputs(
    frames: FrameSource, plan: PromptPlan, output: Path | None, masks: Path | None, scores: Path | None
) -> Iterator[Output]:
    """Open the outputs that were requested, one by one.

    Raises:
        EtamError: one of them cannot be written.
    """
    from etam_edge.media.sinks import MaskFolder, OverlayVideo, ScoreLines

    if masks is not None:
        yield MaskFolder(masks, plan.object_ids)
    if output is not None:
        yield OverlayVideo(output, frames.frames_per_second, frames.frame_shape)
    if scores is not None:
        yield ScoreLines(scores)


def _shortfalls(count: int, plan: PromptPlan, frames: FrameSource, max_frames: int | None) -> Iterator[str]:
    """Notes about frames that the source announced, or that have prompts, and that did not come."""
    expected = min((n for n in (frames.length, max_frames) if n is not None), default=0)
    if count < expected:
        yield f"the source announces {_frames(frames.length or 0)} and gave {count}; it may be cut short or damaged"
    if plan.last_frame >= count:
        yield f"the prompt for frame {plan.last_frame} was never reached"


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Delay Ctrl-C until the end of the block, so that a frame is written to all outputs or to none."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before is None:
        yield
        return
    pressed = False

    def note(*_: Any) -> None:
        nonlocal pressed
        pressed = True

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed:
        signal.raise_signal(signal.SIGINT)


@dataclass
class _Ending:
    """How a run ended.

    Attributes:
        interrupted: whether it was stopped by Ctrl-C.
        failure: the first error.
        kept: paths of the outputs that were completed, with all frames processed until then.
    """

    interrupted: bool = False
    failure: EtamError | None = None
    kept: list[Path] = field(default_factory=list)


class _Run:
    """One pass over a source.

    Args:
        session: new.
        plan: prompts.

    Attributes:
        count: number of frames that were tracked and written.
    """

    def __init__(self, session: Session, plan: PromptPlan) -> None:
        self._session = session
        self._plan = plan
        self._outputs: list[Output] = []
        self.count = 0
        self._invisible = 0
        self._seconds = 0.0

    def perform(
        self, frames: FrameSource, max_frames: int | None, open_outputs: Callable[[], Iterable[Output]]
    ) -> _Ending:
        """Track all frames. In any case, outputs are completed with the frames written so far, or removed."""
        ending = _Ending()
        try:
            for sink in open_outputs():
                self._outputs.append(sink)
            self._track(frames, max_frames)
        except KeyboardInterrupt:
            ending.interrupted = True
        except EtamError as error:
            ending.failure = error
        except BaseException:
            self._discard()
            raise
        try:
            with _interrupts_held():
                self._close(ending)
        except KeyboardInterrupt:
            ending.interrupted = True
        return ending

    def pace(self) -> str:
        return f"{_frames(self.count)}, {self._rate():.1f} frames/s"

    def summary(self) -> str:
        objects = len(self._plan.object_ids)
        text = f"{_frames(self.count)}, {objects} object{'s' if objects > 1 else ''}, {self._rate():.1f} frames/s"
        return f"{text}, none visible on {_frames(self._invisible)}" if self._invisible else text

    def _rate(self) -> float:
        return self.count / self._seconds if self._seconds else 0.0

    def _track(self, frames: FrameSource, max_frames: int | None) -> None:
        """
        Raises:
            EtamError: a frame cannot be read, tracked or written.
        """
        from etam_edge.cli.console import frame_progress
        from etam_edge.media.playback import play, track_frame

        begin = time.perf_counter()
        runner = partial(track_frame, self._session)
        total = min((n for n in (frames.length, max_frames) if n is not None), default=None)
        with frame_progress() as bar:
            task = bar.add_task("track", total=total)
            for played, (result,) in play(frames, self._plan, [runner], max_frames):
                # Ctrl-C between two outputs would leave them with different frames.
                with _interrupts_held():
                    for sink in self._outputs:
                        sink.write(played.frame, result)
                    self.count += 1
                    self._seconds = time.perf_counter() - begin
                    self._invisible += len(result) > 0 and not result.visible.any()
                bar.update(task, completed=self.count, total=total and max(total, self.count))
        if not self.count:
            raise InputError("the source gave no frame; check that it is not empty or in use")

    def _close(self, ending: _Ending) -> None:
        if not self.count:
            self._discard()
        for sink in self._outputs:
            try:
                sink.close()
                ending.kept.append(sink.path)
            except InputError as error:
                ending.failure = ending.failure or error

    def _discard(self) -> None:
        while self._outputs:
            self._outputs.pop().discard()
