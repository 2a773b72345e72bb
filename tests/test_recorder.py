"""The recorder: what it keeps, what it refuses, and that a recording can be used again."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from conftest import SmallBundleMaker
from typer.testing import CliRunner, Result

from etam_edge import Tracker
from etam_edge.bundle import GRAPH_NAMES, Bundle
from etam_edge.calibration.recorder import frames_to_fill, record
from etam_edge.calibration.recording import MANIFEST, Recording
from etam_edge.cli.app import app
from etam_edge.errors import InputError
from etam_edge.media.datasets import find_clips
from etam_edge.spec import Pooling
from etam_edge_testing.davis import write_clip
from etam_edge_testing.refusals import refused

pytest.importorskip("torch")


@pytest.fixture(scope="module")
def tracker(small_bundle: SmallBundleMaker) -> Tracker:
    return Tracker.load(small_bundle(Pooling.SCORE_BIAS), threads=1)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory, tracker: Tracker) -> Path:
    root = tmp_path_factory.mktemp("clips")
    write_clip(root, "long", frames=frames_to_fill(tracker.spec) + 6)
    write_clip(root, "short", frames=5)
    return root


@pytest.fixture(scope="module")
def recording(tracker: Tracker, clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Recording:
    return record(tracker, find_clips(clips), tmp_path_factory.mktemp("r") / "recording", samples=10)


def test_samples_are_true_inputs_spread_over_the_states_of_the_memory(recording: Recording, tracker: Tracker) -> None:
    for name in GRAPH_NAMES:
        rows = recording.samples[name]
        assert 1 <= len(rows) <= 10
        signature = tracker.bundle.manifest.graphs[name].signature
        for inputs in recording.inputs(name):
            assert {t.name for t in signature.inputs} == set(inputs)
            for tensor in signature.inputs:
                assert inputs[tensor.name].dtype == tensor.dtype
                assert inputs[tensor.name].shape[1:] == tensor.shape[1:]
    kinds = Counter(sample.kind for sample in recording.samples["track"])
    seen = recording.seen["track"]
    assert sum(seen.values()) == sum(int(clip["frames"]) - 1 for clip in recording.clips)
    # Most calls read a full memory; they must not crowd out the rare ones.
    assert max(seen.values()) > 4 * max(kinds.values())
    assert max(kinds.values()) - min(kinds.values()) <= 1
    assert any(kind.startswith(f"{tracker.spec.memory_frames} memory frames") for kind in kinds)
    assert any(kind.startswith("1 memory frames") for kind in kinds)
    assert {sample.clip for sample in recording.samples["encode"]} == {"long", "short"}


def test_bank_inputs_are_what_the_frame_read(recording: Recording, tracker: Tracker, clips: Path) -> None:
    """A sample of a frame's `track`, run again, gives what the session said there."""
    sample, inputs = next(zip(recording.samples["track"], recording.inputs("track"), strict=True))
    clip = next(clip for clip in find_clips(clips) if clip.name == sample.clip)
    session = tracker.start_session()
    for index, frame in enumerate(clip.frames):
        result = session.track(frame.pixels, prompts=clip.plan.prompts(index))
        if index == sample.frame:
            break
    import onnxruntime

    path = str(tracker.bundle.graph_path("track"))
    again = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(["mask_logits"], inputs)[0]
    np.testing.assert_allclose(again, result.mask_logits, atol=1e-3)


def test_the_same_seed_gives_the_same_recording(tracker: Tracker, clips: Path, tmp_path: Path) -> None:
    made = [record(tracker, find_clips(clips), tmp_path / name, samples=4, seed=s) for name, s in (("a", 1), ("b", 1))]
    other = record(tracker, find_clips(clips), tmp_path / "c", samples=4, seed=2)
    assert made[0].samples == made[1].samples
    assert other.samples != made[0].samples
    assert json.loads((tmp_path / "c" / MANIFEST).read_text())["seed"] == 2


def test_a_recording_is_bounded_and_streams(tracker: Tracker, clips: Path, tmp_path: Path) -> None:
    made = record(tracker, find_clips(clips), tmp_path / "r", samples=1000, max_bytes=6_000_000)
    files = list(made.path.rglob("*.npz"))
    assert len(files) == sum(map(len, made.samples.values()))
    assert sum(path.stat().st_size for path in files) < 6_600_000
    with pytest.raises(InputError, match="allow the recording more with `max_size`"):
        record(tracker, find_clips(clips), tmp_path / "small", max_bytes=10_000)
    assert not (tmp_path / "small").exists()


def test_a_recording_is_read_again_and_held_to_its_bundle(
    recording: Recording, tracker: Tracker, small_bundle: SmallBundleMaker
) -> None:
    again = Recording.load(recording.path)
    assert again == recording
    again.check(tracker.bundle)
    with pytest.raises(InputError, match="was recorded with another model"):
        again.check(Bundle.load(small_bundle(Pooling.NONE)))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda path: (path / MANIFEST).unlink(), "is not a recording"),
        (lambda path: (path / MANIFEST).write_text("{"), "is damaged"),
        (lambda path: (path / MANIFEST).write_text('{"schema": 99}'), "has schema version 99"),
        (lambda path: (path / MANIFEST).write_text('{"schema": 1, "samples": {}}'), "is damaged"),
        (lambda path: next(path.glob("track/*.npz")).write_bytes(b"x"), "is missing or damaged"),
        (lambda path: next(path.glob("track/*.npz")).unlink(), "is missing or damaged"),
    ],
)
def test_damaged_recordings_are_refused(change, sentence: str, tracker: Tracker, clips: Path, tmp_path: Path) -> None:
    made = record(tracker, find_clips(clips), tmp_path / "r", samples=2)
    change(made.path)
    with pytest.raises(InputError, match=sentence) as caught:
        list(Recording.load(made.path).inputs("track"))
    assert "etam-edge record" in str(caught.value)


def test_clips_that_cannot_fill_the_memory_are_refused_before_any_work(tracker: Tracker, tmp_path: Path) -> None:
    needed = frames_to_fill(tracker.spec)
    with pytest.raises(InputError, match="there is no clip to record"):
        record(tracker, [], tmp_path / "r")
    write_clip(tmp_path / "few", "few", frames=needed - 1)
    with pytest.raises(InputError, match=f"the longest, few, has {needed - 1} frames.*at least {needed} frames"):
        record(tracker, find_clips(tmp_path / "few"), tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_clips_that_never_filled_the_memory_are_refused(tracker: Tracker, tmp_path: Path) -> None:
    """Long enough, but the only object comes too late."""
    from PIL import Image

    needed = frames_to_fill(tracker.spec)
    root = tmp_path / "late"
    write_clip(root, "clip", frames=needed + 2)
    for file in sorted((root / "Annotations" / "clip").iterdir())[:-4]:
        empty = Image.new("P", Image.open(file).size)
        empty.save(file)
    with pytest.raises(InputError, match="the memory was never full: at most 3 of"):
        record(tracker, find_clips(root), tmp_path / "r")
    assert not (tmp_path / "r").exists()


# --- the commands ---


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)], env={"COLUMNS": "200"})


def test_record_command(tracker: Tracker, clips: Path, tmp_path: Path) -> None:
    result = run("record", tracker.bundle.path, clips, "--output", tmp_path / "r", "--samples", 3)
    assert result.exit_code == 0, result.exception
    assert "memory frames" in result.output
    assert f"next: etam-edge quantize {tracker.bundle.path} --calibration {tmp_path / 'r'}" in result.output
    assert len(Recording.load(tmp_path / "r").samples["track"]) == 3
    refused(run("record", tracker.bundle.path, clips, "--output", tmp_path / "r"), "already holds a recording")
    refused(run("record", tracker.bundle.path, tmp_path / "none", "--output", tmp_path / "s"), "there are no clips at")
    (tmp_path / "empty").mkdir()
    refused(run("record", tracker.bundle.path, tmp_path / "empty", "--output", tmp_path / "s"), "holds no clips")
    assert not (tmp_path / "s").exists()
