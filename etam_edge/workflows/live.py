"""Track a live source until it ends or the process is asked to end, and find prompts on a page."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from etam_edge.errors import InputError
from etam_edge.media.prompt_plan import PromptPlan, plan_of
from etam_edge.runtimes import Prompt
from etam_edge.runtimes.resizing import EXACT
from etam_edge.runtimes.session import DEFAULT_MAX_OBJECTS

if TYPE_CHECKING:
    from etam_edge.live.run import LiveResult, LiveStart
    from etam_edge.live.statistics import LiveReport

PathLike = str | os.PathLike[str]
Prompts = PromptPlan | Mapping[int, Prompt] | Mapping[int, Mapping[int, Prompt]]
STOP, RESTART = "stop", "restart"
ON_NEW_SIZE = (STOP, RESTART)
STANDARD_INPUT = "-"


def live(
    bundle: PathLike,
    source: PathLike | int,
    prompts: Prompts | None = None,
    *,
    output: PathLike | None = None,
    masks: PathLike | None = None,
    scores: PathLike | None = None,
    overwrite: bool = False,
    serve: str | None = None,
    show: bool = False,
    rerun: PathLike | bool = False,
    every_frame: bool = False,
    queue: int = 1,
    max_frames: int | None = None,
    reconnect: bool = False,
    on_new_size: str = STOP,
    max_objects: int = DEFAULT_MAX_OBJECTS,
    depth_range: tuple[float, float] | None = None,
    size: tuple[int, int] | None = None,
    pixel_format: str | None = None,
    runtime: str = "auto",
    provider: str = "auto",
    threads: int | None = None,
    resize: str = EXACT,
    on_start: Callable[[LiveStart], None] | None = None,
    on_report: Callable[[LiveReport], None] | None = None,
    report_seconds: float = 5.0,
) -> LiveResult:
    """Track a live source.

        etam_edge.live("bundles/etam_nano-fp32", "rtsp://camera/stream", {1: Prompt(box=box)}, scores="scores.jsonl")

    A thread reads the source; the tracker takes the newest frame, and frames that come meanwhile are skipped. The run
    ends with the source, after `max_frames`, or when the process receives SIGINT or SIGTERM. In each case outputs are
    completed. A corrected frame becomes a conditioning frame (`start_session(corrections_condition=True)`), so that a
    correction lasts.

    Args:
        bundle: path of a bundle.
        source: as of `etam_edge.media.sources.open_source`, or the number of a camera. Files are played at their own
            speed.
        prompts: as of `etam_edge.follow`. Frames with prompts are never skipped. Not needed where a page is served.
        output: overlay video, .mp4.
        masks: folder of PNG masks.
        scores: file of JSON lines; "-" is standard output.
        overwrite: replace outputs that are there.
        serve: "HOST:PORT" of a page that shows the run and takes prompts. Where other machines can reach it, visitors
            need a token (`LiveStart.url`).
        show: open a window.
        rerun: path of a .rrd file, or True for the Rerun viewer that runs on this machine.
        every_frame: skip nothing; the source waits.
        queue: number of frames that wait for the tracker before one is skipped.
        max_frames: stop after this many tracked frames.
        reconnect: open a source that stalls or breaks again, after 0.5 s, 1 s and so on up to 30 s. The session and its
            objects stay.
        on_new_size: "stop" with an error where frames change their size, or "restart" with a new session and further
            outputs beside the first ones.
        max_objects: number of objects that can be tracked at a time. Memory for all is allocated.
        depth_range: counts of grey images of more than 8 bits that become black and white.
        size: (H, W) of raw frames on standard input; requested from a camera, too.
        pixel_format: of raw frames on standard input.
        runtime: as of `Tracker.load`.
        provider: as of `Tracker.load`.
        threads: as of `Tracker.load`.
        resize: as of `Tracker.start_session`.
        on_start: told where the page is, before the first frame is tracked.
        on_report: receives the figures of every `report_seconds`.
        report_seconds: time between two reports.

    Raises:
        InputError: an argument, the source or a prompt cannot be used, or an output cannot be written.
        BundleError: the bundle is missing or damaged.
        RuntimeUnavailableError: a package or a display is missing.
        EtamError: the run failed before the first frame was tracked; a later failure is in the result.
    """
    from etam_edge.live.loop import LoopOptions
    from etam_edge.live.reader import Delivery
    from etam_edge.live.run import RERUN_VIEWER, LiveRun
    from etam_edge.media.sinks import OutputRequest
    from etam_edge.media.sources import SourceOptions

    plan = plan_of(prompts)
    if on_new_size not in ON_NEW_SIZE:
        raise InputError(f"`on_new_size={on_new_size}` is neither {' nor '.join(ON_NEW_SIZE)}")
    if max_frames is not None and max_frames < 1:
        raise InputError(f"`max_frames={max_frames}` is not a number of frames; give 1 or more")
    if not plan.object_ids and serve is None:
        raise InputError("no object was prompted; give a prompt, or select objects on the page with `serve`")
    name = str(source) if isinstance(source, int) else os.fspath(source)
    if reconnect and name == STANDARD_INPUT:
        raise InputError("standard input cannot be opened again; leave `reconnect` out")
    viewer = RERUN_VIEWER if rerun is True else None
    return LiveRun(
        bundle=Path(bundle),
        source=name,
        plan=plan,
        source_options=SourceOptions(depth_range=depth_range, size=size, pixel_format=pixel_format),
        delivery=Delivery(queue, every_frame),
        reconnect=reconnect,
        options=LoopOptions(max_frames, on_new_size == RESTART, report_seconds=report_seconds),
        request=OutputRequest(_path(output), _path(masks), _path(scores), overwrite),
        serve=serve,
        show=show,
        rerun=viewer if isinstance(rerun, bool) else Path(rerun),
        max_objects=max_objects,
        resize=resize,
        load={"runtime": runtime, "provider": provider, "threads": threads},
    ).perform(on_start, on_report)


def find_prompts(
    bundle: PathLike,
    source: PathLike,
    prompts: Prompts | None = None,
    *,
    output: PathLike | None = None,
    overwrite: bool = False,
    serve: str | None = None,
    max_objects: int = DEFAULT_MAX_OBJECTS,
    runtime: str = "auto",
    provider: str = "auto",
    threads: int | None = None,
    on_start: Callable[[LiveStart], None] | None = None,
) -> LiveResult:
    """Select objects of a file on a page. It begins paused on the first frame, and the page plays it.

    The run ends when the page says so, or when the process receives SIGINT or SIGTERM.

    Args:
        bundle: path of a bundle.
        source: a video file or a folder of images.
        prompts: to begin with, as of `etam_edge.follow`.
        output: JSON file that the prompts are written to at the end, where there are any.
        overwrite: replace it where it is there.
        serve: as of `live`; by default an address that only this machine can reach.
        max_objects: number of objects that can be tracked at a time.
        runtime: as of `Tracker.load`.
        provider: as of `Tracker.load`.
        threads: as of `Tracker.load`.
        on_start: told where the page is.

    Raises:
        EtamError: as of `live`; or the source is not a file.
    """
    from etam_edge.live.guard import Address
    from etam_edge.live.loop import LoopOptions
    from etam_edge.live.reader import Delivery
    from etam_edge.live.run import LiveRun
    from etam_edge.media.sinks.base import PendingFile, check_file

    target = _path(output)
    if target is not None:
        check_file(target, "output", overwrite)
    result = LiveRun(
        bundle=Path(bundle),
        source=os.fspath(source),
        plan=plan_of(prompts),
        delivery=Delivery(every_frame=True),
        options=LoopOptions(controlled=True),
        serve=serve or str(Address()),
        saves=target is not None,
        max_objects=max_objects,
        load={"runtime": runtime, "provider": provider, "threads": threads},
    ).perform(on_start)
    if target is None or not result.has_prompts:
        return result
    pending = PendingFile(target, "output", overwrite)
    pending.temporary.write_text(result.prompts, encoding="utf-8")
    pending.commit()
    return replace(result, kept=[target])


def _path(path: PathLike | None) -> Path | None:
    return None if path is None else Path(path)
