"""Outputs of tracking: what they contain, what they refuse to replace, and what a signal or a kill leaves."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from etam_edge import FrameResult
from etam_edge.errors import InputError, RuntimeUnavailableError
from etam_edge.media.prompt_files import plan_file, read_masks
from etam_edge.media.sinks import MaskFolder, OutputRequest, Outputs, OverlayVideo, ScoreLines
from etam_edge.media.sources import NamedFrame

HEIGHT, WIDTH = 48, 65


def frame(index: int = 0, time: float | None = None) -> NamedFrame:
    pixels = np.full((HEIGHT, WIDTH, 3), (200, 40, 40), dtype=np.uint8)
    pixels[:, : 4 * index] = (30, 60, 190)
    return NamedFrame(f"{index:05d}", pixels, index, time)


def outcome(ids: tuple[int, ...] = (1,), index: int = 0) -> FrameResult:
    """Objects in neighbouring vertical stripes of 10 pixels, on rows 8 to 40."""
    masks = np.zeros((len(ids), HEIGHT, WIDTH), dtype=bool)
    for row in range(len(ids)):
        masks[row, 8:40, 10 * row + 5 : 10 * row + 15] = True
    scores = np.arange(len(ids), dtype=np.float32) + 1.25
    return FrameResult(
        index, ids, masks, masks.astype(np.float32), scores, np.full(len(ids), 0.5), np.zeros(len(ids), np.int32)
    )


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- video ---


@pytest.fixture
def av() -> Any:
    pytest.importorskip("cv2")
    return pytest.importorskip("av")


def written(path: Path, times: list[float | None], rate: float | None = 25.0) -> Path:
    video = OverlayVideo(path, rate, (HEIGHT, WIDTH))
    for index, time in enumerate(times):
        video.write(frame(index, time), outcome())
    video.close()
    return path


def test_video_is_one_that_browsers_play(av: Any, tmp_path: Path) -> None:
    path = written(tmp_path / "v.mp4", [None] * 6)
    with av.open(str(path)) as file:
        [stream] = file.streams
        # What Chromium, Firefox and Safari decode: H.264 with a profile for 4:2:0 in 8 bits, even sides.
        assert stream.codec_context.codec.canonical_name == "h264"
        assert stream.codec_context.profile in ("Constrained Baseline", "Main", "High")
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert (stream.width, stream.height) == (WIDTH - 1, HEIGHT)
        pictures = list(file.decode(video=0))
    assert [round(float(picture.time), 3) for picture in pictures] == [0, 0.04, 0.08, 0.12, 0.16, 0.2]
    shown = pictures[3].to_ndarray(format="rgb24")
    np.testing.assert_allclose(shown[4, 60], (200, 40, 40), atol=6)
    np.testing.assert_allclose(shown[4, 3], (30, 60, 190), atol=6)
    # The index stands before the pictures, so that playing begins before all is loaded.
    data = path.read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")


def test_variable_frame_rate_stays_variable(av: Any, tmp_path: Path) -> None:
    times = [3.0, 3.1, 3.15, 3.5, 3.9, 4.0]
    with av.open(str(written(tmp_path / "v.mp4", list(times)))) as file:
        shown = [float(picture.time) for picture in file.decode(video=0)]
    np.testing.assert_allclose(shown, np.array(times) - 3, atol=1e-4)


def test_times_that_go_back_or_are_missing_keep_the_order(av: Any, tmp_path: Path) -> None:
    with av.open(str(written(tmp_path / "v.mp4", [1.0, 1.4, 1.2, None, 1.4, 2.0]))) as file:
        shown = [float(picture.time) for picture in file.decode(video=0)]
    assert len(shown) == 6
    assert all(before < after for before, after in itertools.pairwise(shown))
    assert shown[-1] == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize(
    ("rate", "expected"), [(30000 / 1001, 30000 / 1001), (None, 30), (float("nan"), 30), (1e6, 30)]
)
def test_frame_rates(rate: float | None, expected: float, av: Any, tmp_path: Path) -> None:
    with av.open(str(written(tmp_path / "v.mp4", [None] * 5, rate))) as file:
        shown = [float(picture.time) for picture in file.decode(video=0)]
        assert float(file.streams.video[0].average_rate) == pytest.approx(expected, rel=1e-3)
    np.testing.assert_allclose(shown, np.arange(5) / expected, atol=1e-4)


def test_frames_of_one_row_or_column_are_refused(av: Any, tmp_path: Path) -> None:
    for shape in ((1, 64), (64, 1)):
        with pytest.raises(InputError, match="too small for a video"):
            OverlayVideo(tmp_path / "new" / "v.mp4", 30, shape)
    assert names(tmp_path) == []


def test_name_that_is_not_utf8_is_written(av: Any, tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    written(folder / os.fsdecode(b"v\xff.mp4"), [None] * 2)
    assert os.listdir(os.fsencode(folder)) == [b"v\xff.mp4"]


def test_without_pyav_the_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cv2")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(RuntimeUnavailableError, match=r'overlay video needs PyAV.*pip install "etam-edge\[video\]"'):
        OverlayVideo(tmp_path / "v.mp4", 30, (HEIGHT, WIDTH))


def test_pyav_without_the_encoder_is_said(av: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(av, "codecs_available", {"mpeg4"})
    with pytest.raises(RuntimeUnavailableError, match="built without"):
        OverlayVideo(tmp_path / "v.mp4", 30, (HEIGHT, WIDTH))


# --- masks ---


def test_ids_above_255_make_masks_of_16_bits_that_can_be_read_again(tmp_path: Path) -> None:
    folder = MaskFolder(tmp_path / "m", (1, 300, 65535))
    result = outcome((1, 300, 65535))
    folder.write(frame(), result)
    with Image.open(tmp_path / "m" / "00000.png") as image:
        assert image.mode == "I;16"
        values = np.asarray(image)
    for row, object_id in enumerate(result.object_ids):
        np.testing.assert_array_equal(values == object_id, result.masks[row])
    read = read_masks(tmp_path / "m" / "00000.png")
    assert list(read) == [1, 300, 65535]
    np.testing.assert_array_equal(read[300], result.masks[1])


def test_an_id_that_comes_later_widens_the_masks_from_then_on(tmp_path: Path) -> None:
    folder = MaskFolder(tmp_path / "m")
    for index, ids in enumerate(((1,), (1, 300), (1,))):
        folder.write(frame(index), outcome(ids))
    modes = [Image.open(tmp_path / "m" / name).mode for name in names(tmp_path / "m")]
    assert modes == ["P", "I;16", "I;16"]


@pytest.mark.parametrize("object_id", [0, -1, 65536])
def test_ids_that_no_png_holds_are_refused(object_id: int, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a PNG holds ids 1 to 65535"):
        MaskFolder(tmp_path / "m", (object_id,))
    with pytest.raises(InputError, match="a PNG holds ids 1 to 65535"):
        MaskFolder(tmp_path / "m").write(frame(), outcome((object_id,)))


def test_masks_of_an_earlier_run_are_kept_or_all_removed(tmp_path: Path) -> None:
    first = MaskFolder(tmp_path)
    for index in range(3):
        first.write(frame(index), outcome())
    with pytest.raises(InputError, match=r"is not empty; add `overwrite=True` to remove the masks in it"):
        MaskFolder(tmp_path)
    second = MaskFolder(tmp_path, overwrite=True)
    assert len(names(tmp_path)) == 3, "removed before the first mask of the new run"
    for index in range(2):
        second.write(frame(index), outcome())
    assert names(tmp_path) == ["00000.png", "00001.png"]


@pytest.mark.parametrize("name", ["photo.png", "notes.txt", "folder.png", "00000.png"])
def test_nothing_but_own_masks_is_ever_removed(name: str, tmp_path: Path) -> None:
    MaskFolder(tmp_path).write(frame(7), outcome())
    if name == "folder.png":
        (tmp_path / name).mkdir()
    elif name == "notes.txt":
        (tmp_path / name).write_text("x")
    else:
        Image.fromarray(frame().pixels).save(tmp_path / name)
    before = names(tmp_path)
    with pytest.raises(InputError, match=f"holds {name}, which is no mask that etam-edge wrote"):
        MaskFolder(tmp_path, overwrite=True)
    assert names(tmp_path) == before


def test_two_runs_into_one_new_folder_do_not_mix(tmp_path: Path) -> None:
    first, second = MaskFolder(tmp_path / "m"), MaskFolder(tmp_path / "m")
    first.write(frame(), outcome((1,)))
    with pytest.raises(InputError, match="written by another process meanwhile"):
        second.write(frame(), outcome((2,)))
    assert set(np.unique(np.asarray(Image.open(tmp_path / "m" / "00000.png")))) == {0, 1}


# --- scores ---


def test_lines_have_labels_and_times(tmp_path: Path) -> None:
    lines = ScoreLines(tmp_path / "s.jsonl", {1: "cup"})
    lines.write(frame(0, 0.25), outcome((1, 2)))
    lines.write(frame(1), outcome(()))
    lines.close()
    first, second = (json.loads(line) for line in (tmp_path / "s.jsonl").read_text().splitlines())
    assert first == {
        "frame_index": 0,
        "frame": "00000",
        "timestamp": 0.25,
        "objects": [
            {
                "id": 1,
                "label": "cup",
                "object_score": 1.25,
                "iou": 0.5,
                "visible": True,
                "area": 320,
                "box": [5, 8, 15, 40],
            },
            {
                "id": 2,
                "label": None,
                "object_score": 2.25,
                "iou": 0.5,
                "visible": True,
                "area": 320,
                "box": [15, 8, 25, 40],
            },
        ],
    }
    assert (second["timestamp"], second["objects"]) == (None, [])


def test_dash_is_standard_output_for_scores_alone() -> None:
    assert OutputRequest(scores=Path("-")).scores == Path("/dev/stdout")
    assert OutputRequest(scores=Path("-")).takes_standard_output
    assert OutputRequest(scores=Path("/dev/fd/1")).takes_standard_output
    assert not OutputRequest(scores=Path("/dev/stderr")).takes_standard_output
    with pytest.raises(InputError, match="is standard output, which takes `scores` alone"):
        OutputRequest(output=Path("-"))
    with pytest.raises(InputError, match="is standard output, which takes `scores` alone"):
        OutputRequest(masks=Path("-"))


# --- what is there already ---


def request(folder: Path, overwrite: bool = False) -> OutputRequest:
    return OutputRequest(folder / "v.mp4", folder / "m", folder / "s.jsonl", overwrite)


@pytest.mark.usefixtures("av")
def test_outputs_are_never_replaced_without_overwrite(tmp_path: Path) -> None:
    def run(overwrite: bool, count: int) -> None:
        asked = request(tmp_path, overwrite)
        asked.check(None, [], [1])
        with asked.open(30, (HEIGHT, WIDTH), [1]) as outputs:
            for index in range(count):
                outputs.write(frame(index), outcome(index=index))
        assert outputs.kept == [tmp_path / "m", tmp_path / "v.mp4", tmp_path / "s.jsonl"]

    run(False, 3)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert len(before) == 5
    for name in ("v.mp4", "s.jsonl", "m"):
        alone = {"v.mp4": "output", "s.jsonl": "scores", "m": "masks"}[name]
        with pytest.raises(InputError, match=r"add `overwrite=True`"):
            OutputRequest(**{alone: tmp_path / name}).check(None, [], [1])
        with pytest.raises(InputError, match=r"add `overwrite=True`"):
            OutputRequest(**{alone: tmp_path / name}).open(30, (HEIGHT, WIDTH))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    run(True, 2)
    assert len((tmp_path / "s.jsonl").read_text().splitlines()) == len(names(tmp_path / "m")) == 2


@pytest.mark.usefixtures("av")
def test_two_runs_with_one_name_lose_nothing(tmp_path: Path) -> None:
    """Both began when nothing was there: the second to end finds the first one's file, and keeps its own beside it."""
    runs = [OutputRequest(tmp_path / "v.mp4", scores=tmp_path / "s.jsonl").open(30, (HEIGHT, WIDTH)) for _ in range(2)]
    for number, outputs in enumerate(runs):
        for index in range(number + 1):
            outputs.write(frame(index), outcome(index=index))
    runs[0].close()
    with pytest.raises(InputError, match=r"v.mp4 was written by another process meanwhile .* is in \S*v-1.mp4"):
        runs[1].close()
    assert names(tmp_path) == ["s-1.jsonl", "s.jsonl", "v-1.mp4", "v.mp4"]
    assert [len((tmp_path / name).read_text().splitlines()) for name in ("s.jsonl", "s-1.jsonl")] == [1, 2]


@pytest.mark.usefixtures("av")
def test_two_runs_that_overwrite_leave_one_whole_file(tmp_path: Path) -> None:
    runs = [request(tmp_path, overwrite=True).open(30, (HEIGHT, WIDTH)) for _ in range(2)]
    for number, outputs in enumerate(runs):
        for index in range(number + 1):
            outputs.write(frame(index), outcome(index=index))
    for outputs in runs:
        outputs.close()
    assert len((tmp_path / "s.jsonl").read_text().splitlines()) == 2
    assert names(tmp_path) == ["m", "s.jsonl", "v.mp4"]


@pytest.mark.usefixtures("av")
def test_nothing_is_left_where_nothing_was_written(tmp_path: Path) -> None:
    deep = tmp_path / "a" / "b"
    request(deep).check(None, [], [1])
    assert names(tmp_path) == [], "checking creates nothing"
    with request(deep).open(30, (HEIGHT, WIDTH)) as outputs:
        assert outputs.paths == [deep / "m", deep / "v.mp4", deep / "s.jsonl"]
    assert (outputs.kept, names(tmp_path)) == ([], [])
    (tmp_path / "s.jsonl").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        OutputRequest(deep / "v.mp4", deep / "m", tmp_path / "s.jsonl").open(30, (HEIGHT, WIDTH))
    assert names(tmp_path) == ["s.jsonl"]


@pytest.mark.parametrize("name", ["x" * 300 + ".jsonl", "a\0b.jsonl", "."])
def test_impossible_names_are_refused_before_the_first_frame(name: str, tmp_path: Path) -> None:
    for parameter in ("scores", "masks"):
        place = tmp_path / name
        if (parameter, name) == ("masks", "."):
            continue
        with pytest.raises(InputError, match=parameter):
            OutputRequest(**{parameter: place}).check(None, [], [])
        with pytest.raises(InputError, match=parameter):
            OutputRequest(**{parameter: place}).open(30, (HEIGHT, WIDTH))
    assert names(tmp_path) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to become another user")
def test_folder_that_cannot_be_searched_is_refused(tmp_path: Path) -> None:
    """As a user without rights, which root has: in a process of its own."""
    secret = tmp_path / "secret"
    secret.mkdir(mode=0o700)
    code = (
        "import os, sys; from pathlib import Path\n"
        "from etam_edge.errors import InputError\n"
        "from etam_edge.media.sinks import OutputRequest\n"
        "from etam_edge.atomic import check_target\n"
        "os.setuid(65534)\n"
        "for name, ask in (('scores', lambda p: OutputRequest(scores=p).check(None, [], [])),"
        "('masks', lambda p: OutputRequest(masks=p).check(None, [], [])),"
        "('output', lambda p: check_target(p, False, 'bundle.json', 'bundle'))):\n"
        "    try: ask(Path(sys.argv[1]) / 'x')\n"
        "    except InputError as error: print(name in str(error), 'Permission denied' in str(error))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(secret)], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == ["True True"] * 3, done.stderr


# --- signals ---


@pytest.fixture
def interruptible() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_wait_until_a_frame_is_in_every_output(number: signal.Signals) -> None:
    from etam_edge.interrupts import exit_code, raising_on_termination

    calls: list[str] = []

    class Sink:
        path = Path("x")

        def write(self, *_: Any) -> None:
            calls.append("begin")
            signal.raise_signal(number)
            calls.append("end")

        def close(self) -> None:
            calls.append("closed")

        def discard(self) -> None:
            raise AssertionError("a frame was written")

    def run() -> None:
        with raising_on_termination(), outputs:
            outputs.write(frame(), outcome())

    outputs = Outputs()
    outputs.add(Sink())
    outputs.add(Sink())
    before = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    with pytest.raises(KeyboardInterrupt) as caught:
        run()
    assert exit_code(caught.value) == 128 + number
    assert calls == ["begin", "end", "begin", "end", "closed", "closed"]
    assert outputs.count == 1
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


@pytest.mark.usefixtures("interruptible")
def test_work_that_only_looks_at_a_flag_ends_with_the_signal_it_got() -> None:
    from etam_edge.interrupts import Terminated, interrupts_noted, raising_on_termination

    def run() -> None:
        with raising_on_termination(), interrupts_noted() as pressed:
            assert not pressed()
            signal.raise_signal(signal.SIGTERM)
            if pressed():
                raise KeyboardInterrupt

    with pytest.raises(Terminated) as caught:
        run()
    assert caught.value.number == signal.SIGTERM


@pytest.mark.usefixtures("interruptible")
def test_ignored_signals_stay_ignored() -> None:
    """As under nohup, which ignores SIGHUP."""
    from etam_edge.interrupts import interrupts_held, raising_on_termination

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with raising_on_termination(), interrupts_held():
            signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


# --- labels ---


def test_labels_of_a_prompts_file(tmp_path: Path) -> None:
    entries = [
        {"object": 1, "points": [[3, 4]], "labels": [1], "label": "cup"},
        {"object": 2, "box": [1, 2, 3, 4]},
        {"object": 1, "frame": 4, "points": [[3, 4]], "labels": [1], "label": "cup"},
    ]
    (tmp_path / "p.json").write_text(json.dumps(entries))
    assert plan_file(tmp_path / "p.json").labels == {1: "cup"}


@pytest.mark.usefixtures("av")
def test_captions_of_close_objects_do_not_cover_each_other() -> None:
    from etam_edge.media.captions import Caption, draw_captions

    def drawn(centres: list[tuple[int, int]]) -> np.ndarray:
        pixels = np.zeros((120, 160, 3), dtype=np.uint8)
        colours = [np.array((255, 0, 0)), np.array((0, 255, 0)), np.array((0, 0, 255))]
        draw_captions(
            pixels, [Caption("1 cup 2.5", centre, tone) for centre, tone in zip(centres, colours, strict=True)]
        )
        return pixels

    def bars(pixels: np.ndarray) -> list[int]:
        """Pixels of the bar of each caption that are seen."""
        return [int(((pixels[..., channel] == 255) & (pixels.sum(axis=2) == 255)).sum()) for channel in range(3)]

    apart = bars(drawn([(80, 20), (80, 60), (80, 100)]))
    assert len(set(apart)) == 1
    assert apart[0] > 0
    assert bars(drawn([(80, 60), (82, 61), (79, 60)])) == apart
    # At an edge, all of a caption is seen.
    assert bars(drawn([(0, 0), (159, 119), (0, 119)])) == apart


@pytest.mark.usefixtures("av")
def test_overlay_shows_names_and_scores() -> None:
    import cv2

    from etam_edge.media import overlay as module

    texts: list[str] = []
    original = module.draw_captions

    def noted(pixels: np.ndarray, captions: Any) -> None:
        texts.extend(caption.text for caption in captions)
        original(pixels, captions)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "draw_captions", noted)
        module.draw_result(cv2, frame().pixels, outcome((1, 2)), {1: "cup"})
    assert texts == ["1 cup 1.2", "2 2.2"]
