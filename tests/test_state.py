"""Saved sessions: a file is checked wholly before any of it is used."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import SmallBundleMaker

from etam_edge import Prompt, Tracker
from etam_edge.errors import InputError
from etam_edge.runtimes import state as state_module
from etam_edge.spec import Pooling
from etam_edge_testing.fuzz import Outcomes, attempts, mutate_bytes, mutate_json
from etam_edge_testing.small import clip_frame

pytest.importorskip("onnxruntime")

CLICK = Prompt(points=[(64, 88)], labels=[1])
BOX = Prompt(box=(20, 30, 90, 100))
Arrays = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def tracker(small_bundle: SmallBundleMaker) -> Tracker:
    return Tracker.load(small_bundle(Pooling.SCORE_BIAS), "onnxruntime", provider="cpu", threads=1)


@pytest.fixture(scope="module")
def saved(tracker: Tracker, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Arrays]:
    """Two objects after six frames, the second one prompted on the last: description and arrays."""
    path = tmp_path_factory.mktemp("state") / "state.npz"
    session = tracker.start_session(max_objects=3)
    for index in range(6):
        session.track(clip_frame(index), {0: {4: CLICK}, 5: {2: BOX}}.get(index))
    session.save(path)
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    return json.loads(str(arrays.pop("about"))), arrays


def write(path: Path, about: Any, arrays: Arrays, *, checksum: bool = True) -> Path:
    """A state with this content and the checksum of this content, as somebody writes who knows the format."""
    if checksum and isinstance(about, dict):
        content = {name: value for name, value in about.items() if name != "sha256"}
        about = {**content, "sha256": state_module._digest(content, arrays)}
    np.savez(path, about=np.array(json.dumps(about)), **arrays)  # type: ignore[arg-type]
    return path


def changed(saved: tuple[dict[str, Any], Arrays], path: Path, **fields: Any) -> Path:
    return write(path, {**saved[0], **fields}, saved[1])


def with_entry(about: dict[str, Any], place: int, value: Any) -> list[Any]:
    """Objects whose first memory entry, of the first object, has another value in one place."""
    objects: list[Any] = json.loads(json.dumps(about["objects"]))
    objects[0][1]["entries"][0][place] = value
    return objects


def test_file_as_it_was_written_is_resumed(
    saved: tuple[dict[str, Any], Arrays], tracker: Tracker, tmp_path: Path
) -> None:
    session = tracker.resume_session(write(tmp_path / "state.npz", *saved))
    assert (session.frame_index, session.object_ids, session.max_objects) == (5, (4, 2), 3)


def test_rows_survive_a_removal(tracker: Tracker, tmp_path: Path) -> None:
    session = tracker.start_session()
    session.track(clip_frame(0), {1: CLICK, 2: BOX, 3: Prompt(points=[(30, 30)], labels=[1])})
    session.track(clip_frame(1))
    session.remove(1)
    session.save(tmp_path / "state.npz")
    resumed = tracker.resume_session(tmp_path / "state.npz")
    assert resumed.object_ids == (2, 3)
    for index in range(2, 5):
        first, second = session.track(clip_frame(index)), resumed.track(clip_frame(index))
        np.testing.assert_array_equal(first.mask_logits, second.mask_logits)


def test_version_1_is_resumed(saved: tuple[dict[str, Any], Arrays], tracker: Tracker, tmp_path: Path) -> None:
    about, arrays = json.loads(json.dumps(saved[0])), saved[1]
    del about["sha256"]
    for _, memory in about["objects"]:
        del memory["row"]
    path = write(tmp_path / "state.npz", {**about, "version": 1}, arrays, checksum=False)
    current = tracker.resume_session(write(tmp_path / "current.npz", *saved))
    first, second = (session.track(clip_frame(6)) for session in (tracker.resume_session(path), current))
    np.testing.assert_array_equal(first.mask_logits, second.mask_logits)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "frame_index of text": ({"frame_index": "5"}, "frame_index is '5', not a whole number"),
    "another frame_index": ({"frame_index": 6}, "no memory entry of frame 6"),
    "frames without a shape": ({"frame_shape": None}, "frames without a shape"),
    "frames of a wrong shape": ({"frame_shape": [128]}, r"frame_shape is not \[H, W\]"),
    "frames without rows": ({"frame_shape": [0, 128]}, "frame_shape is 0, not a whole number from 1"),
    "huge frames": ({"frame_shape": [10**6, 10**6]}, "1000000000000 pixels"),
    "an unknown field": ({"colour": "red"}, "its description has other fields"),
    "an unknown option": ({"options": {"max_objects": 3}}, "options are not those of a session"),
    "no room for its objects": (
        {"options": {"corrections_condition": False, "max_objects": 1, "fill_hole_area": 0, "resize": "exact"}},
        "it has 2 objects, and room for 1",
    ),
    "too much room": (
        {"options": {"corrections_condition": False, "max_objects": 10**9, "fill_hole_area": 0, "resize": "exact"}},
        "max_objects must be a whole number from 1 to 1024, not 1000000000",
    ),
    "a prompt of no object": ({"prompted": [9]}, "prompted names no objects"),
    "a prompt that is not held": ({"prompted": [4]}, "was prompted and is not held"),
    "no objects": ({"objects": [], "prompted": []}, "it holds .*which is not known"),
    "another version": ({"version": 99}, "state version 99, this etam-edge reads 1 and 2"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_description_is_refused(
    name: str, saved: tuple[dict[str, Any], Arrays], tracker: Tracker, tmp_path: Path
) -> None:
    fields, sentence = WRONG[name]
    with pytest.raises(InputError, match=sentence):
        tracker.resume_session(changed(saved, tmp_path / "state.npz", **fields))


@pytest.mark.parametrize(
    ("place", "value", "sentence"),
    [
        (0, -1, "a memory entry is of frame -1"),
        (0, 10**30, "and the last frame is 5"),
        (1, 8, "a memory entry is in slot 8 of 8"),
        (1, -1, "a memory entry is in slot -1"),
        (1, True, "a memory entry is in slot True"),
        (1, 1, "two memory entries share a frame or a slot"),
        (2, 10**9, "a memory entry is in slot 1000000000 of"),
        (3, False, "has no conditioning frame"),
        (3, 1, r"not \[frame, slot, pointer slot, conditioning\]"),
    ],
)
def test_slot_outside_the_bank_is_refused(
    place: int, value: Any, sentence: str, saved: tuple[dict[str, Any], Arrays], tracker: Tracker, tmp_path: Path
) -> None:
    """Under `python -O` as well: no `assert` stands between a slot and the copy into it."""
    objects = with_entry(saved[0], place, value)
    with pytest.raises(InputError, match=sentence):
        tracker.resume_session(changed(saved, tmp_path / "state.npz", objects=objects))


def test_wrong_arrays_are_refused(saved: tuple[dict[str, Any], Arrays], tracker: Tracker, tmp_path: Path) -> None:
    about, arrays = saved
    keys = arrays["buffer_bank_keys"]
    nan = keys.copy()
    nan.reshape(-1)[-1] = np.nan
    for replaced, sentence in (
        ({"buffer_bank_keys": nan}, "buffer_bank_keys is NaN or infinite"),
        ({"buffer_bank_keys": keys[:, 1:]}, "buffer_bank_keys is float32 .* and should be float32"),
        ({"buffer_bank_keys": keys.astype(np.float16)}, "buffer_bank_keys is float16"),
        ({"buffer_bank_keys": np.asfortranarray(keys)}, "buffer_bank_keys is in column-major order"),
        ({"answer_4_iou": np.array("x")}, "answer_4_iou has|answer_4_iou is <U1"),
        ({"answer_4_mask_choice": np.array(7)}, "mask_choice of object 4 is 7"),
        ({"answer_9_iou": np.array(0.5)}, "it holds 'answer_9_iou', which is not known"),
        ({"answer_4_mask": np.zeros((128, 128), bool)}, "it holds 'answer_4_mask', which is not known"),
    ):
        with pytest.raises(InputError, match=sentence):
            tracker.resume_session(write(tmp_path / "state.npz", about, arrays | replaced))
    rest = {name: array for name, array in arrays.items() if name != "buffer_bank_keys"}
    with pytest.raises(InputError, match="buffer_bank_keys is missing"):
        tracker.resume_session(write(tmp_path / "state.npz", about, rest))
    features = arrays["buffer_conditioned_features"].copy()
    features[1] = np.nan  # of the object that was just prompted: never read
    tracker.resume_session(write(tmp_path / "state.npz", about, arrays | {"buffer_conditioned_features": features}))
    features[0] = np.nan
    with pytest.raises(InputError, match="buffer_conditioned_features is NaN"):
        tracker.resume_session(write(tmp_path / "state.npz", about, arrays | {"buffer_conditioned_features": features}))


def test_content_that_does_not_match_the_checksum_is_refused(
    saved: tuple[dict[str, Any], Arrays], tracker: Tracker, tmp_path: Path
) -> None:
    """A finite number in the bank: only the checksum tells."""
    about, arrays = saved
    values = arrays["buffer_bank_values"].copy()
    values.reshape(-1)[0] += 1
    with pytest.raises(InputError, match="its sha256 is not that of its content"):
        tracker.resume_session(
            write(tmp_path / "state.npz", about, arrays | {"buffer_bank_values": values}, checksum=False)
        )


def test_members_that_are_not_known_cost_no_memory(
    saved: tuple[dict[str, Any], Arrays], tracker: Tracker, tmp_path: Path
) -> None:
    """One that claims 3.9 GB, and of which 64 MiB of zeros are there, compressed."""
    path = write(tmp_path / "state.npz", *saved)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive, archive.open("unused.npy", "w") as member:
        for _ in range(64):
            member.write(bytes(1 << 20))
    whole = bytearray(path.read_bytes())
    claim(whole, b"unused.npy")
    path.write_bytes(whole)
    before = peak()
    with pytest.raises(InputError, match="it holds 'unused', which is not known"):
        tracker.resume_session(path)
    assert peak() - before < 32e6


def test_member_that_claims_too_much_is_refused_unread(
    saved: tuple[dict[str, Any], Arrays], tracker: Tracker, tmp_path: Path
) -> None:
    whole = bytearray(write(tmp_path / "state.npz", *saved).read_bytes())
    for name, sentence in ((b"about.npy", "about has 3900000000 bytes"), (b"buffer_bank_keys.npy", "3900000000 bytes")):
        broken = bytearray(whole)
        claim(broken, name)
        (tmp_path / "broken.npz").write_bytes(broken)
        before = peak()
        with pytest.raises(InputError, match=sentence):
            tracker.resume_session(tmp_path / "broken.npz")
        assert peak() - before < 32e6


def test_archive_of_very_many_entries_is_refused_unread(tracker: Tracker, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "many.npz", "w") as archive:
        for index in range(10_001):
            archive.writestr(str(index), b"")
    with pytest.raises(InputError, match="its directory lists 10001 entries"):
        tracker.resume_session(tmp_path / "many.npz")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs FIFOs")
def test_names_that_are_no_files_are_refused(tracker: Tracker, tmp_path: Path) -> None:
    """A FIFO does not wait for a writer."""
    os.mkfifo(tmp_path / "fifo.npz")
    for path, sentence in (
        (tmp_path / "fifo.npz", "not a regular file"),
        (tmp_path, "not a regular file"),
        ("/dev/zero", "not a regular file"),
        (tmp_path / ("a" * 300), "name too long"),
        ("a\0b", "no file can have this name"),
        ("\ud800", "no file can have this name"),
        (5, "`path` is a int; give a path"),
        (b"state.npz", "`path` is a bytes; give a path"),
    ):
        with pytest.raises(InputError, match=f"(?i){sentence}"):
            tracker.resume_session(path)  # type: ignore[arg-type]


def test_places_that_cannot_be_written_are_refused(tracker: Tracker, tmp_path: Path) -> None:
    session = tracker.start_session()
    for path in (".", tmp_path, "a\0b", "\ud800", "x" * 300, tmp_path / "none" / "state.npz", 5, None):
        with pytest.raises(InputError):
            session.save(path)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def claim(archive: bytearray, name: bytes) -> None:
    """Let the directory of a zip archive say that a member has 3.9 GB."""
    at = archive.rfind(b"PK\x01\x02", 0, archive.rfind(name))
    archive[at + 24 : at + 28] = (3_900_000_000).to_bytes(4, "little")


def peak() -> int:
    """Most memory that the process has used, in bytes."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# --- fuzzers ---


def use(tracker: Tracker, path: Path) -> str:
    """Resume a state and use it; SHA-256 of what the next frames give."""
    session = tracker.resume_session(path)
    answers = hashlib.sha256()
    height, width = session._state.frame_shape or (128, 128)
    if height * width > 1e6:
        return ""
    for object_id in session.object_ids:
        answers.update(session.refine(object_id, Prompt(points=[(0, 0)], labels=[0])).mask_logits.tobytes())
    for index in range(2):
        answers.update(session.track(clip_frame(index, height, width)).mask_logits.tobytes())
    return answers.hexdigest()


def test_fuzzed_bytes(saved: tuple[dict[str, Any], Arrays], tracker: Tracker, tmp_path: Path) -> None:
    """Damaged files are refused, or were damaged where nothing is stored: they answer as before."""
    whole = write(tmp_path / "state.npz", *saved).read_bytes()
    expected = use(tracker, tmp_path / "state.npz")
    # Damage in the many numbers is one kind of damage; that of headers and directory is many.
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        headers = [info.header_offset for info in archive.infolist()]
        directory = archive.start_dir
    outcomes = Outcomes()
    for source in attempts(40):
        start = source.choice([*headers, directory, source.randrange(len(whole))])
        end = start + 300
        damaged = whole[:start] + mutate_bytes(whole[start:end], source) + whole[end:]
        (tmp_path / "damaged.npz").write_bytes(damaged)
        with outcomes.attempt(f"bytes from {start}"):
            if use(tracker, tmp_path / "damaged.npz") != expected:
                outcomes.fail(f"bytes from {start}", "accepted with other answers")
    outcomes.check(refused=20)


def test_fuzzed_content(saved: tuple[dict[str, Any], Arrays], tracker: Tracker, tmp_path: Path) -> None:
    """One place of the description or one array is changed, with a checksum that is right."""
    outcomes = Outcomes()
    for source in attempts(60):
        about, arrays = saved[0], dict(saved[1])
        what = ""
        if source.random() < 0.7:
            about, what = mutate_json({key: value for key, value in about.items() if key != "sha256"}, source)
        else:
            name = source.choice(sorted(arrays))
            arrays[name] = mutated(arrays[name], source)
            what = f"array {name} {arrays[name].dtype} {arrays[name].shape}"
        try:
            write(tmp_path / "state.npz", about, arrays)
        except (ValueError, TypeError, UnicodeEncodeError):  # It cannot be written: not a state that anybody has.
            continue
        with outcomes.attempt(what):
            use(tracker, tmp_path / "state.npz")
    outcomes.check(refused=40)


def mutated(array: np.ndarray, source: random.Random) -> np.ndarray:
    """The array with another value, type or shape."""
    kind = source.choice(["nan", "inf", "type", "shape", "axis", "empty", "huge", "text"])
    if kind in ("nan", "inf", "huge") and array.dtype.kind == "f":
        copy = np.array(array)
        copy.reshape(-1)[source.randrange(copy.size)] = {"nan": np.nan, "inf": np.inf, "huge": 1e38}[kind]
        return copy
    if kind == "type":
        return array.astype(source.choice(["float64", "float16", "int32", "complex64", "bool", ">f4"]))
    if kind == "axis":
        return array[None]
    if kind == "empty":
        return np.zeros(0, array.dtype)
    if kind == "text":
        return np.array("text")
    return array.reshape(-1)[: source.randrange(array.size + 1)]
