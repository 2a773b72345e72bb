"""One live run from its parts: source, reader, session, loop, page, outputs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from etam_edge.errors import EtamError, InputError
from etam_edge.interrupts import interrupts_noted, raising_on_termination
from etam_edge.live.guard import Address, choose_token, parse_address
from etam_edge.live.loop import Audience, LiveLoop, LoopOptions
from etam_edge.live.reader import Delivery, FrameReader
from etam_edge.live.rerun_log import RerunLog
from etam_edge.live.server import PageServer
from etam_edge.live.sinks import LiveSinks
from etam_edge.live.statistics import LiveReport
from etam_edge.live.window import Window
from etam_edge.media.playback import check_reach
from etam_edge.media.prompt_plan import PromptPlan
from etam_edge.media.sinks import OutputRequest
from etam_edge.media.sources import Cause, Ending, FrameSource, SourceOptions, open_source
from etam_edge.runtimes.resizing import EXACT
from etam_edge.runtimes.session import DEFAULT_MAX_OBJECTS, Session
from etam_edge.runtimes.tracker import Tracker

RERUN_VIEWER = True
"""Value of `LiveRun.rerun` that stands for the viewer that runs on this machine."""


@dataclass(frozen=True)
class LiveStart:
    """What is known when the first frame is about to be tracked.

    Attributes:
        source: name of the source.
        frame_shape: (H, W) of its frames.
        runtime: that tracks.
        url: where to open the page, with the token that it needs; None where none is served.
        needs_token: whether the page needs a token.
    """

    source: str
    frame_shape: tuple[int, int]
    runtime: str
    url: str | None = None
    needs_token: bool = False


@dataclass(frozen=True)
class LiveResult:
    """How a live run went.

    Attributes:
        report: figures of the whole run.
        ending: how the source ended, with the frames that were lost or damaged in it.
        interrupted: whether the process was asked to end, or the window was closed.
        kept: files and folders that were written.
        prompts: JSON of the prompts of all objects that were tracked at the end, which `etam-edge track --prompts`
            reads.
        failure: why the run ended early, or None. What was tracked before is in `kept`.
    """

    report: LiveReport
    ending: Ending
    interrupted: bool
    kept: list[Path]
    prompts: str
    failure: EtamError | None = field(default=None, compare=False)

    @property
    def has_prompts(self) -> bool:
        """Whether `prompts` holds any."""
        return bool(json.loads(self.prompts))


@dataclass(frozen=True)
class LiveRun:
    """What a run consists of.

    Attributes:
        bundle: its path.
        source: as of `open_source`.
        plan: prompts.
        source_options: how the source is read.
        delivery: which frames the tracker receives.
        reconnect: whether a source that breaks is opened again.
        options: how the loop behaves.
        request: outputs on disk.
        serve: address of the page, or None.
        show: whether to open a window.
        rerun: path of a .rrd file, RERUN_VIEWER, or None.
        saves: whether prompts are written where the page ends the run.
        max_objects: number of objects that can be tracked at a time.
        resize: as of `Tracker.start_session`.
        load: arguments of `Tracker.load`.
    """

    bundle: Path
    source: str
    plan: PromptPlan
    source_options: SourceOptions = field(default_factory=SourceOptions)
    delivery: Delivery = field(default_factory=Delivery)
    reconnect: bool = False
    options: LoopOptions = field(default_factory=LoopOptions)
    request: OutputRequest = field(default_factory=OutputRequest)
    serve: str | None = None
    show: bool = False
    rerun: Path | bool | None = None
    saves: bool = False
    max_objects: int = DEFAULT_MAX_OBJECTS
    resize: str = EXACT
    load: Mapping[str, Any] = field(default_factory=dict)

    def perform(
        self,
        on_start: Callable[[LiveStart], None] | None = None,
        on_report: Callable[[LiveReport], None] | None = None,
    ) -> LiveResult:
        """Track until the end.

        Raises:
            EtamError: the run failed before the first frame was tracked. A later failure is in the result.
        """
        address = None if self.serve is None else parse_address(self.serve)
        token = None if address is None else choose_token(address)
        open_again = partial(open_source, self.source, self.source_options)
        with ExitStack() as stack:
            # Everything that can be checked is checked before the first frame is tracked.
            frames = open_again()
            stack.callback(frames.close)
            if self.options.controlled and frames.is_live:
                raise InputError(f"{frames.stem} is a live source, which a page cannot pause; track it with `serve`")
            check_reach(self.plan, frames, self.options.max_frames)
            self.request.check(frames.path, self.plan.files, self.plan.object_ids)
            tracker = stack.enter_context(Tracker.load(self.bundle, **self.load))
            session = stack.enter_context(self._session(tracker, frames))
            labels = dict(self.plan.labels)
            page = self._page(address, token, tracker, session, frames)
            sinks = stack.enter_context(self._sinks(frames, labels))
            reader = FrameReader(
                frames,
                open_again if self.reconnect else None,
                self.delivery,
                keep={planned.frame for planned in self.plan.planned},
            )
            loop = LiveLoop(session, reader, self.plan, labels, sinks, page or Audience(), self.options, on_report)
            if page is not None:
                page.attach(loop)
                stack.enter_context(page)
            if on_start is not None:
                url = page.url if page else None
                on_start(LiveStart(frames.stem, frames.frame_shape, tracker.runtime, url, token is not None))
            stack.enter_context(reader)
            return _finish(loop, reader, sinks)

    def _session(self, tracker: Tracker, frames: FrameSource) -> Session:
        """
        Raises:
            InputError: the bundle takes frames of another size, or a prompt cannot be used.
        """
        tracker.bundle.check_frame_shape(frames.frame_shape, frames.stem)
        self.plan.check_prompts(frames.frame_shape, tracker.spec, tracker.bundle.manifest.sizes)
        most = max(self.max_objects, len(self.plan.object_ids))
        return tracker.start_session(True, max_objects=most, resize=self.resize)

    def _page(
        self, address: Address | None, token: str | None, tracker: Tracker, session: Session, frames: FrameSource
    ) -> PageServer | None:
        """
        Raises:
            InputError: the address cannot be bound.
        """
        if address is None:
            return None
        greeting = {
            "source": frames.stem,
            "model": f"{tracker.spec.name}, {tracker.runtime}",
            "mode": "controlled" if self.options.controlled else "live",
            "maxObjects": session.max_objects,
            "saves": self.saves,
        }
        return PageServer(address, token, greeting)

    def _sinks(self, frames: FrameSource, labels: Mapping[int, str]) -> LiveSinks:
        """
        Raises:
            EtamError: an output cannot be written, or a package, display or viewer is missing.
        """
        rerun = None
        if self.rerun is not None:
            rerun = RerunLog(None if isinstance(self.rerun, bool) else self.rerun, self.request.overwrite)
        window = Window(f"{frames.stem} - etam-edge") if self.show else None
        sinks = LiveSinks(self.request, frames.frames_per_second, self.plan.object_ids, labels, window, rerun)
        sinks.open(frames.frame_shape)
        return sinks


def _finish(loop: LiveLoop, reader: FrameReader, sinks: LiveSinks) -> LiveResult:
    """Run the loop, and complete the outputs however it ends.

    Raises:
        EtamError: nothing was tracked.
    """
    failure: EtamError | None = None
    with raising_on_termination(), interrupts_noted() as interrupted:
        try:
            loop.run(lambda: interrupted() or sinks.stopped)
        except EtamError as error:
            failure = error
        stopped = interrupted() or sinks.stopped
        try:
            sinks.close()
        except InputError as error:
            failure = failure or error
    # From here on a second Ctrl-C ends a source that does not stop. The outputs are whole.
    reader.close()
    if failure is not None and not loop.count:
        raise failure
    ending = reader.ending or Ending(Cause.CLOSED, loop.count)
    return LiveResult(loop.report(), ending, stopped, sinks.kept, loop.prompts_json(), failure)
