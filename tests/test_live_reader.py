"""The reader of live sources: which frames it gives, and how it opens a source again."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from etam_edge.errors import InputError
from etam_edge.live.reader import Arrival, Delivery, FrameReader
from etam_edge.media.sources import Cause, FrameSource
from etam_edge_testing.live_sources import MadeUpCamera


def picture(number: int) -> np.ndarray:
    return np.full((4, 6, 3), number % 256, dtype=np.uint8)


def wait_for(condition: object, seconds: float = 10.0) -> None:
    """Wait until a function returns true."""
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.002)


def all_of(reader: FrameReader) -> Iterator[Arrival]:
    while True:
        arrival = reader.take(0.05)
        if arrival is not None:
            yield arrival
        elif reader.ending is not None:
            return


def indices(arrivals: Iterator[Arrival]) -> list[int]:
    return [arrival.frame.index for arrival in arrivals]


def test_newest_frame_is_given_and_others_are_counted_as_skipped() -> None:
    with FrameReader(MadeUpCamera(picture, 100)) as reader:
        wait_for(lambda: reader.ending)
        assert indices(all_of(reader)) == [99]
        assert reader.skipped == 99


def test_a_queue_keeps_the_newest_frames_in_order() -> None:
    with FrameReader(MadeUpCamera(picture, 100), delivery=Delivery(queue=4)) as reader:
        wait_for(lambda: reader.ending)
        assert indices(all_of(reader)) == [96, 97, 98, 99]
        assert reader.skipped == 96


def test_every_frame_is_given_where_it_is_asked_for() -> None:
    with FrameReader(MadeUpCamera(picture, 50), delivery=Delivery(every_frame=True)) as reader:
        time.sleep(0.05)
        assert indices(all_of(reader)) == list(range(50))
        assert reader.skipped == 0


def test_frames_with_prompts_are_never_skipped() -> None:
    with FrameReader(MadeUpCamera(picture, 100), keep=[0, 17]) as reader:
        wait_for(lambda: reader.ending)
        given = indices(all_of(reader))
    assert given == [0, 17, 99]


def test_a_source_that_breaks_is_opened_again_and_frames_count_on(caplog: pytest.LogCaptureFixture) -> None:
    waiting = [MadeUpCamera(picture, 20, cause=Cause.STALLED), MadeUpCamera(picture, 20, cause=Cause.CLOSED)]
    refusals = [InputError("the camera is in use")]

    def reopen() -> FrameSource:
        if refusals:
            raise refusals.pop()
        if not waiting:
            raise InputError("it is gone")
        return waiting.pop(0)

    first = MadeUpCamera(picture, 20, cause=Cause.BROKEN)
    given: list[Arrival] = []
    with (
        caplog.at_level(logging.WARNING, "etam_edge"),
        FrameReader(first, reopen, Delivery(every_frame=True), first_wait=0.01) as reader,
    ):
        while len(given) < 60:
            arrival = reader.take(1)
            if arrival is not None:
                given.append(arrival)
        wait_for(lambda: reader.fault == "it is gone")
        assert reader.connections == 3
        assert first.closed
    assert [arrival.frame.index for arrival in given] == list(range(60))
    # The first connection keeps its names; those of later ones continue, so that no mask is overwritten.
    assert [arrival.frame.name for arrival in given] == [f"{index:05d}" for index in range(60)]
    times = [arrival.frame.timestamp for arrival in given[20:]]
    assert times == sorted(times)
    assert caplog.messages[0] == "the cable was pulled; the source is opened again in 0.01 s"
    assert "the camera is in use; the source is opened again in 0.02 s" in caplog.messages
    assert reader.ending is not None
    assert reader.ending.frames == 60
    assert reader.ending.cause is Cause.CLOSED


def test_without_reopening_a_break_is_the_end_and_says_why() -> None:
    with FrameReader(MadeUpCamera(picture, 5, cause=Cause.BROKEN)) as reader:
        wait_for(lambda: reader.ending)
        assert reader.ending is not None
        assert (reader.ending.cause, reader.ending.message) == (Cause.BROKEN, "the cable was pulled")


def test_an_error_of_the_source_is_raised_by_take() -> None:
    def broken(number: int) -> np.ndarray:
        if number == 3:
            raise InputError("frame 3 is damaged")
        return picture(number)

    with FrameReader(MadeUpCamera(broken, 5), delivery=Delivery(every_frame=True)) as reader:
        taken = [reader.take(5) for _ in range(3)]
        with pytest.raises(InputError, match="frame 3 is damaged"):
            reader.take(5)
    assert all(taken)


def test_closing_ends_a_reader_that_waits_for_the_tracker() -> None:
    camera = MadeUpCamera(picture, 1000)
    reader = FrameReader(camera, delivery=Delivery(every_frame=True))
    with reader:
        assert reader.take(5) is not None
    assert camera.closed
    assert not [thread for thread in threading.enumerate() if thread.name == "etam-edge-reader"]


def test_wake_ends_a_take() -> None:
    with FrameReader(MadeUpCamera(picture, 2, rate=0.01)) as reader:
        assert reader.take(10) is not None
        threading.Timer(0.05, reader.wake).start()
        assert reader.take(60) is None


def test_a_file_is_played_at_its_own_speed() -> None:
    video = MadeUpCamera(picture, 11, rate=100)
    video.is_live = False
    begin = time.monotonic()
    with FrameReader(video) as reader:
        last = list(all_of(reader))[-1]
    assert last.frame.index == 10
    assert last.captured - begin >= 0.1


@pytest.mark.parametrize(
    ("options", "text"),
    [({"queue": 0}, "`queue=0` is not a number of frames"), ({"queue": 2, "every_frame": True}, "give one of them")],
)
def test_deliveries_that_make_no_sense_are_refused(options: dict[str, int], text: str) -> None:
    with pytest.raises(InputError, match=text):
        Delivery(**options)  # type: ignore[arg-type]
