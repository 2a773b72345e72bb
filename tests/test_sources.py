"""Video files and folders of images as sources: frames, times, sections, damage."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from etam_edge.errors import InputError
from etam_edge.media import CHAIR_VIDEO
from etam_edge.media.datasets import find_clips
from etam_edge.media.scaled import ScaledFrames
from etam_edge.media.sources import (
    Cause,
    Ending,
    FrameSource,
    Moment,
    Section,
    SourceOptions,
    VideoFile,
    open_source,
)
from etam_edge.media.sources.pyav import turned

av = pytest.importorskip("av")

HEIGHT, WIDTH = 48, 64


def picture(index: int) -> np.ndarray:
    """A frame whose level tells its index; its upper left quarter is white."""
    image = np.full((HEIGHT, WIDTH, 3), 20 + 10 * index, dtype=np.uint8)
    image[: HEIGHT // 2, : WIDTH // 2] = 255
    return image


def levels(source: FrameSource) -> list[int]:
    """The indices that frames of `picture` show."""
    return [round((float(frame.pixels[-8:, -8:].mean()) - 20) / 10) for frame in source]


def write_video(path: Path, times: Sequence[float], matrix: Sequence[int] | None = None, codec: str = "mpeg4") -> Path:
    """A video of `picture`s that are shown at `times` (seconds)."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=1000)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for index, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(picture(index), format="rgb24")
            frame.pts, frame.time_base = round(1000 * time), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    if matrix is not None:
        # The matrix of the track's header, behind 40 bytes of version 0.
        data = bytearray(path.read_bytes())
        place = data.find(b"tkhd") + 4 + 40
        assert data[place : place + 4] == (65536).to_bytes(4, "big")
        for number, value in enumerate(matrix):
            data[place + 4 * number : place + 4 * number + 4] = value.to_bytes(4, "big", signed=True)
        path.write_bytes(data)
    return path


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return write_video(tmp_path / "clip.mp4", [index / 10 for index in range(12)])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "images"
    path.mkdir()
    for index in range(12):
        Image.fromarray(picture(index)).save(path / f"{index}.png")
    return path


def section(start: str | None = None, end: str | None = None) -> SourceOptions:
    return SourceOptions(
        section=Section(
            None if start is None else Moment.parse(start, "start"), None if end is None else Moment.parse(end, "end")
        )
    )


def test_frames_of_a_video_carry_index_name_and_time(video: Path) -> None:
    source = open_source(str(video))
    assert (source.is_live, source.path, source.stem, source.length) == (False, video, "clip", 12)
    assert source.frame_shape == (HEIGHT, WIDTH)
    assert source.ending is None
    assert levels(source) == list(range(12))
    frames = list(source)
    assert [frame.index for frame in frames] == list(range(12))
    assert [frame.name for frame in frames] == [f"{index:05d}" for index in range(12)]
    assert [frame.timestamp for frame in frames] == pytest.approx([index / 10 for index in range(12)], abs=1e-3)
    assert all(frame.captured is None for frame in frames)
    assert source.ending == Ending(Cause.END, 12)
    assert source.count() == 12


def test_variable_frame_rates_stay_variable(tmp_path: Path) -> None:
    times = [0.0, 0.04, 0.1, 0.5, 0.52, 1.7]
    source = open_source(str(write_video(tmp_path / "vfr.mkv", times)))
    assert [frame.timestamp for frame in source] == pytest.approx(times, abs=2e-3)


def test_times_count_from_the_first_frame(tmp_path: Path) -> None:
    source = open_source(str(write_video(tmp_path / "late.mkv", [5.0, 5.1, 5.3])))
    assert [frame.timestamp for frame in source] == pytest.approx([0, 0.1, 0.3], abs=2e-3)


def test_reading_that_is_stopped_says_so(video: Path, folder: Path) -> None:
    for source in (open_source(str(video)), open_source(str(folder))):
        frames = iter(source)
        next(frames)
        next(frames)
        frames.close()  # type: ignore[attr-defined]
        assert source.ending == Ending(Cause.CLOSED, 2)
        reading = iter(source)
        next(reading)
        source.close()
        assert list(reading) == []
        assert source.ending == Ending(Cause.CLOSED, 1)
        assert list(source) == []


# --- orientation ---

ONE = 65536
TURNS = {
    "upright": ((ONE, 0, 0, 0, ONE), lambda image: image),
    "90 clockwise": ((0, ONE, 0, -ONE, 0), lambda image: np.rot90(image, -1)),
    "180": ((-ONE, 0, 0, 0, -ONE), lambda image: np.rot90(image, 2)),
    "90 counterclockwise": ((0, -ONE, 0, ONE, 0), lambda image: np.rot90(image)),
    "mirrored": ((-ONE, 0, 0, 0, ONE), lambda image: image[:, ::-1]),
    "upside down": ((ONE, 0, 0, 0, -ONE), lambda image: image[::-1]),
    "transposed": ((0, ONE, 0, ONE, 0), lambda image: image.swapaxes(0, 1)),
}


@pytest.mark.parametrize("case", TURNS)
def test_videos_are_turned_as_their_matrix_says(case: str, tmp_path: Path) -> None:
    (a, b, _, c, d), turn = TURNS[case]
    source = open_source(str(write_video(tmp_path / "v.mp4", [0, 0.1], (a, b, 0, c, d))))
    expected = turn(picture(0))
    [first, _] = source
    assert source.frame_shape == first.pixels.shape[:2] == expected.shape[:2]
    assert np.abs(first.pixels.astype(int) - expected).mean() < 6
    assert first.pixels.flags.c_contiguous


def test_turning_is_exact() -> None:
    image = np.random.default_rng(1).integers(0, 255, (3, 5, 3), dtype=np.uint8)
    for (a, b, _, c, d), turn in TURNS.values():
        matrix = np.array([[a, b, 0], [c, d, 0], [0, 0, 1 << 30]], dtype=np.int32)
        np.testing.assert_array_equal(turned(image, matrix), turn(image))
    assert turned(image, None) is image


# --- sections ---


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        ("3", None, range(3, 12)),
        (None, "5", range(5)),
        ("3", "5", range(3, 5)),
        ("0.3", "0.5s", range(3, 5)),
        ("0:00.95", None, range(10, 12)),
        ("11", "99", range(11, 12)),
        ("2", "0.35", range(2, 4)),
    ],
)
def test_section_of_a_video(video: Path, start: str | None, end: str | None, expected: range) -> None:
    source = open_source(str(video), section(start, end))
    frames = list(source)
    assert [frame.index for frame in frames] == list(expected)
    assert levels(source) == list(expected)
    assert frames[0].timestamp == pytest.approx(expected.start / 10, abs=1e-3)
    assert source.count() == len(expected)
    assert source.length in (None, len(expected))
    assert source.ending is not None
    assert source.ending.is_whole


def test_section_of_a_folder(folder: Path) -> None:
    source = open_source(str(folder), section("3", "5"))
    assert (source.length, source.count()) == (2, 2)
    assert [(frame.name, frame.index, frame.timestamp) for frame in source] == [("3", 3, None), ("4", 4, None)]
    with pytest.raises(InputError, match=r"`start=1\.5`: the images of .* have no times; give a frame's number"):
        open_source(str(folder), section("1.5"))


def test_section_that_is_empty_or_beyond_the_source_is_refused(video: Path, folder: Path) -> None:
    with pytest.raises(InputError, match="`end=3`, which is not behind `start=5`"):
        section("5", "3")
    with pytest.raises(InputError, match="`end=0` and leaves no frame"):
        section(None, "0")
    with pytest.raises(InputError, match="`end=1:00`, which is not behind `start=0:02:00`"):
        section("0:02:00", "1:00")
    for text in ("x", "-1", "1:2:3:4", "1e3", "٣", "", "1:", "9" * 40):
        with pytest.raises(InputError, match="is neither a frame nor a time"):
            Moment.parse(text, "start")
    with pytest.raises(InputError, match=r"`start=12`: .*images ends before it"):
        open_source(str(folder), section("12"))
    for start in ("12", "1.3"):
        with pytest.raises(InputError, match=r"ends before it; give an earlier frame or time"):
            list(open_source(str(video), section(start)))


# --- damage ---


def damaged_chair(path: Path, seed: int = 0) -> Path:
    """The chair's video, 60 frames, with 10 kB of noise in the middle."""
    data = bytearray(CHAIR_VIDEO.read_bytes())
    rng = random.Random(seed)
    place = rng.randrange(len(data) // 4, len(data) - 20_000)
    data[place : place + 10_000] = rng.randbytes(10_000)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("seed", range(2))
def test_reading_goes_on_behind_damage_and_lost_frames_are_counted(seed: int, tmp_path: Path) -> None:
    source = VideoFile(damaged_chair(tmp_path / "noise.mp4", seed))
    frames = list(source)
    assert source.ending is not None
    assert source.ending.cause == Cause.END
    assert len(frames) > 50
    assert (source.ending.frames, source.ending.lost) == (len(frames), 60 - len(frames))
    assert not source.ending.is_whole
    assert f"{source.ending.lost} of 60 frames are lost" in source.ending.shortfall()
    # The gap shows in the times: the last frame has its own.
    assert frames[-1].timestamp == pytest.approx(59 / 30, abs=1e-3)
    assert source.count() == len(frames)


def test_video_that_is_cut_short_is_not_whole(tmp_path: Path) -> None:
    data = CHAIR_VIDEO.read_bytes()
    # Its index comes last: moved to the front, it announces frames that are not there.
    faststart = tmp_path / "front.mp4"
    with av.open(str(CHAIR_VIDEO)) as source, av.open(str(faststart), "w", options={"movflags": "faststart"}) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    (tmp_path / "cut.mp4").write_bytes(faststart.read_bytes()[: len(data) // 2])
    source = VideoFile(tmp_path / "cut.mp4")
    frames = list(source)
    assert 0 < len(frames) < 60
    assert source.ending is not None
    assert len(frames) + source.ending.lost == 60


def test_files_that_are_no_videos_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "words.mp4").write_text("these are words\n" * 100)
    (tmp_path / "list.mp4").write_text("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:1/x.ts\n")
    (tmp_path / "cut.mp4").write_bytes(CHAIR_VIDEO.read_bytes()[:5000])
    for name in ("empty.mp4", "words.mp4", "list.mp4", "cut.mp4"):
        with pytest.raises(InputError, match=f"{name} (is not a video that can be read|has no )"):
            open_source(str(tmp_path / name))
    Image.fromarray(picture(0)).save(tmp_path / "one.png")
    with pytest.raises(InputError, match="is one image"):
        open_source(str(tmp_path / "one.png"))


def test_names_that_are_not_utf8_are_read(video: Path, tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/caf\xe9.mp4"
    shutil.copy(video, name)
    source = open_source(os.fsdecode(name))
    assert len(list(source)) == 12
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(folder)
    Image.fromarray(picture(0)).save(tmp_path / "a.png")
    shutil.copy(tmp_path / "a.png", folder + b"/\xff.png")
    [frame] = open_source(os.fsdecode(folder))
    assert frame.name == os.fsdecode(b"\xff")


def test_names_with_colons_are_no_protocols(video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("10:30:00.mp4", "concat:a|b.mp4", "-.mp4", "http:x.mp4"):
        shutil.copy(video, tmp_path / name)
        assert len(list(open_source(name))) == 12


def test_recording_of_a_stream_that_begins_between_key_frames_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "whole.ts"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg2video", rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = WIDTH, HEIGHT, "yuv420p", 6
        for index in range(18):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(index), format="rgb24")))
        container.mux(stream.encode(None))
    data = path.read_bytes()
    # Packets of 188 bytes; the first third goes.
    (tmp_path / "joined.ts").write_bytes(data[188 * (len(data) // 188 // 3) :])
    source = VideoFile(tmp_path / "joined.ts")
    frames = list(source)
    assert 0 < len(frames) < 18
    assert source.ending is not None
    assert source.ending.is_whole, source.ending


def test_damaged_clips_are_refused_as_such(tmp_path: Path) -> None:
    damaged_chair(tmp_path / "chair.mp4")
    (tmp_path / "chair.json").write_text('[{"points": [[420, 260]], "labels": [1]}]')
    [clip] = find_clips(tmp_path)
    with pytest.raises(InputError, match=r"clip chair is damaged: \d+ of 60 frames are lost.* give an undamaged copy"):
        _ = clip.length
    (tmp_path / "chair_masks").mkdir()
    with pytest.raises(InputError, match="clip chair is damaged"):
        find_clips(tmp_path)


def test_grey_video_of_16_bits_needs_a_range(tmp_path: Path) -> None:
    path = tmp_path / "thermal.mkv"
    counts = np.linspace(7000, 9000, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH).astype(np.uint16)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "gray16le"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(counts, format="gray16le")))
        container.mux(stream.encode(None))
    with pytest.raises(InputError, match=r"thermal\.mkv has grey frames of more than 8 bits.*`depth_range=LOW,HIGH`"):
        open_source(str(path))
    source = open_source(str(path), SourceOptions(depth_range=(7000, 9000)))
    assert source.depth_range == (7000, 9000)
    [frame] = source
    np.testing.assert_array_equal(frame.pixels[..., 0], np.rint((counts.astype(np.float32) - 7000) / 2000 * 255))


def test_scaled_frames_keep_everything_but_pixels(video: Path) -> None:
    source = open_source(str(video), section("2", "6"))
    scaled = ScaledFrames(source, (24, 32))
    frames = list(scaled)
    assert {frame.pixels.shape for frame in frames} == {(24, 32, 3)}
    assert [frame.index for frame in frames] == [2, 3, 4, 5]
    assert [frame.timestamp for frame in frames] == [frame.timestamp for frame in source]
    assert scaled.ending == source.ending
    assert scaled.is_live is False
