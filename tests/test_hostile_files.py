"""Small JSON files that hold anything: recordings, sidecars of engines, prompt files."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from etam_edge.bundle import GRAPH_NAMES, graph_signatures
from etam_edge.bundle.engines import EnginePlatform, Sidecar
from etam_edge.calibration.recording import MANIFEST, Recording, Sample
from etam_edge.errors import BundleError, InputError
from etam_edge.media.prompt_files import plan_file
from etam_edge_testing.fuzz import FACTOR, Outcomes, attempts, mutate_bytes, mutate_json
from etam_edge_testing.small import SIZES, SMALL

PLATFORM = EnginePlatform("tensorrt", "10.3.0", "Orin", (8, 7), 16, 32, "Jetson AGX Orin")
SIDECAR = Sidecar(PLATFORM, "0" * 64, "1" * 64, 1234, 4, "fp16", 0, "1.0", "2026-01-01T00:00:00+00:00")
PROMPTS: list[dict[str, Any]] = [
    {"frame": 0, "object": 1, "points": [[42, 26], [3, 4]], "labels": [1, 0]},
    {"frame": 3, "object": 2, "box": [1, 2, 30, 40]},
    {"frame": 5, "object": 1, "points": [[4, 2]], "labels": [0], "refine": True},
]


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """One sample of each graph of the small model, of two objects where there are objects."""
    samples = {}
    for name, signature in graph_signatures(SMALL, SIZES).items():
        arrays = {tensor.name: np.zeros(tensor.sized(2), tensor.dtype) for tensor in signature.inputs}
        (tmp_path / name).mkdir()
        np.savez(tmp_path / name / "000000.npz", **arrays)  # type: ignore[arg-type]
        samples[name] = [Sample(f"{name}/000000.npz", "clip", 0, "first")]
    clips = [{"name": "clip", "frames": 20, "objects": 2}]
    whole = Recording(tmp_path, SMALL.to_dict(), SIZES.to_dict(), {"name": "seeded", "sha256": ""}, clips, 0, samples)
    (tmp_path / MANIFEST).write_text(whole.to_json())
    return tmp_path


def read_all(path: Path) -> Recording:
    found = Recording.load(path)
    for name in GRAPH_NAMES:
        list(found.inputs(name))
    json.dumps(found.summary())
    return found


def test_recording_is_read(recording: Path) -> None:
    assert read_all(recording).frames == 20


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"seed": "0"}, "seed is '0', not of type int"),
        ({"clips": [{"name": "clip"}]}, "damaged"),
        ({"clips": [{"name": "clip", "frames": "20"}]}, "frames is '20', not of type int"),
        ({"model": {"name": "small"}}, "damaged"),
        ({"sizes": {"max_points": 10**12}}, "max_points must be at least 2"),
        ({"samples": {"encode": [{"file": "../x.npz", "clip": "", "frame": 0, "kind": ""}]}}, "outside the recording"),
        ({"samples": {"encode": [{"file": "a\0", "clip": "", "frame": 0, "kind": ""}]}}, "damaged"),
        ({"samples": {"another": []}}, "which are no graphs"),
        ({"samples": []}, "samples is"),
        ({"colour": "red"}, "unexpected keyword argument 'colour'"),
    ],
)
def test_damaged_recording_is_refused(change: dict[str, Any], sentence: str, recording: Path) -> None:
    fields = json.loads((recording / MANIFEST).read_text())
    (recording / MANIFEST).write_text(json.dumps(fields | change))
    with pytest.raises(InputError, match=sentence) as caught:
        Recording.load(recording)
    assert "\n" not in str(caught.value)


def test_samples_of_other_shapes_are_refused(recording: Path) -> None:
    file = recording / "track" / "000000.npz"
    with np.load(file) as arrays:
        original = dict(arrays)
    for change, sentence in (
        ({"bank_keys": original["bank_keys"][:, 1:]}, "bank_keys is float32"),
        ({"time_codes": original["time_codes"].astype(np.float32)}, "time_codes is float32"),
        ({"more": np.zeros(3)}, "entries in|is not known"),
        ({"bank_keys": original["bank_keys"][:1]}, "slot_bias|bank|time_codes|pointer"),
        ({"bank_keys": np.float32(3)}, "is a single number"),
    ):
        np.savez(file, **{**original, **change})  # type: ignore[arg-type]
        with pytest.raises(InputError, match=sentence):
            read_all(recording)
    file.write_bytes(b"words")
    with pytest.raises(InputError, match="is missing or damaged"):
        read_all(recording)
    file.unlink()
    with pytest.raises(InputError, match="is missing or damaged"):
        read_all(recording)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs FIFOs")
def test_fifos_do_not_wait_for_a_writer(recording: Path, tmp_path: Path) -> None:
    sidecar = tmp_path / "sidecar.json"
    for file in (recording / MANIFEST, recording / "encode" / "000000.npz", sidecar):
        if file.name != MANIFEST:
            file.unlink(missing_ok=True)
            os.mkfifo(file)
    with pytest.raises(InputError, match="not a regular file"):
        read_all(recording)
    with pytest.raises(BundleError, match="not a regular file"):
        Sidecar.load(sidecar)
    (recording / MANIFEST).unlink()
    os.mkfifo(recording / MANIFEST)
    with pytest.raises(InputError, match="not a regular file"):
        Recording.load(recording)


def test_sidecar_is_read(tmp_path: Path) -> None:
    (tmp_path / "sidecar.json").write_text(SIDECAR.to_json())
    assert Sidecar.load(tmp_path / "sidecar.json") == SIDECAR


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"max_objects": "4"}, "max_objects is '4', not of type int"),
        ({"max_objects": 0}, "a number is negative or zero"),
        ({"size": 1.5}, "size is 1.5, not of type int"),
        ({"builder": None}, "damaged"),
        ({"builder": {"flavour": "tensorrt"}}, "compute_capability"),
        ({"schema": True}, "schema version True"),
        ({"schema": [1]}, r"schema version \[1\]"),
        ({"colour": "red"}, "unexpected keyword argument"),
    ],
)
def test_damaged_sidecar_is_refused(change: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    fields = json.loads(SIDECAR.to_json())
    (tmp_path / "sidecar.json").write_text(json.dumps(fields | change))
    with pytest.raises(BundleError, match=sentence):
        Sidecar.load(tmp_path / "sidecar.json")


# --- fuzzers ---


def test_fuzzed_recordings(recording: Path) -> None:
    original = (recording / MANIFEST).read_bytes()
    outcomes = Outcomes()
    for source in attempts(60):
        if source.random() < 0.3:
            what, damaged = "bytes", mutate_bytes(original, source)
        else:
            fields, what = mutate_json(json.loads(original), source)
            damaged = json.dumps(fields).encode()
        (recording / MANIFEST).write_bytes(damaged)
        with outcomes.attempt(what):
            read_all(recording)
    outcomes.check(refused=20 * FACTOR)


def test_fuzzed_samples(recording: Path) -> None:
    files = sorted(recording.glob("*/*.npz"))
    originals = {file: file.read_bytes() for file in files}
    outcomes = Outcomes()
    for source in attempts(40):
        file = source.choice(files)
        data = originals[file]
        start = source.choice([0, len(data) - 1000, source.randrange(len(data))])
        end = start + 300
        file.write_bytes(data[:start] + mutate_bytes(data[start:end], source) + data[end:])
        with outcomes.attempt(f"{file.parent.name} from {start}"):
            read_all(recording)
        file.write_bytes(data)
    outcomes.check(refused=20 * FACTOR)


def test_fuzzed_sidecars(tmp_path: Path) -> None:
    original = SIDECAR.to_json().encode()
    outcomes = Outcomes()
    for source in attempts(80):
        if source.random() < 0.5:
            what, damaged = "bytes", mutate_bytes(original, source)
        else:
            fields, what = mutate_json(json.loads(original), source)
            damaged = json.dumps(fields).encode()
        (tmp_path / "sidecar.json").write_bytes(damaged)
        with outcomes.attempt(what):
            sidecar = Sidecar.load(tmp_path / "sidecar.json")
            assert sidecar.platform.fingerprint
            assert str(sidecar.platform)
            assert replace(sidecar) == sidecar
    outcomes.check(refused=30 * FACTOR)


def test_fuzzed_prompt_files(tmp_path: Path) -> None:
    original = json.dumps(PROMPTS).encode()
    outcomes = Outcomes()
    for source in attempts(120):
        if source.random() < 0.4:
            what, damaged = "bytes", mutate_bytes(original, source)
        else:
            entries, what = mutate_json(PROMPTS, source)
            if source.random() < 0.2:
                what = "mask"
                entries = [
                    {"mask": source.choice(["", ".", "/", "a\0b", "\ud800", "x" * 5000, "/dev/zero", "none.png"])}
                ]
            damaged = json.dumps(entries).encode()
        (tmp_path / "prompts.json").write_bytes(damaged)
        with outcomes.attempt(what):
            plan_file(tmp_path / "prompts.json").check_prompts((96, 160), SMALL, SIZES)
    outcomes.check(refused=50 * FACTOR, accepted=5)
