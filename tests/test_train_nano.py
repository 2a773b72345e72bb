"""The trainer of the small model: clips, rollouts, and a training that goes on where it was stopped."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from etam_edge.spec import NANO, Pooling
from etam_edge_testing.small import small_model

torch = pytest.importorskip("torch")
cv2 = pytest.importorskip("cv2")

TRAINER = Path(__file__).resolve().parents[1] / "examples" / "train_nano"
sys.path.insert(0, str(TRAINER))

from clips import Clip, make_clip  # noqa: E402
from muon import orthogonalised  # noqa: E402
from photos import Photos  # noqa: E402
from rendered import Rendered  # noqa: E402
from rollout import Plan, Rollout  # noqa: E402
from scenes import Scenes  # noqa: E402
from sources import Sources  # noqa: E402
from start import initialise  # noqa: E402
from stills import still_losses  # noqa: E402
from videos import Videos  # noqa: E402

from etam_edge.model import EfficientTAM, ReferenceTracker  # noqa: E402


@pytest.fixture(scope="module")
def drawn() -> Sources:
    """Nothing but drawn textures and shapes: what there is on any machine."""
    sources = Sources(held_out=False, emoji_font=None)
    sources.photos = []
    return sources


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of twelve made-up photographs, each of three objects with masks."""
    folder = tmp_path_factory.mktemp("data")
    for name in ("images", "instances"):
        (folder / "photos" / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(12):
        image = rng.integers(0, 80, (150, 200, 3), dtype=np.uint8)
        instances = np.zeros((150, 200), np.uint8)
        for index in range(3):
            centre = 35 + 60 * index, int(rng.integers(45, 105))
            cv2.circle(instances, centre, 25, index + 1, -1)
            image[instances == index + 1] = rng.integers(120, 255, 3)
        cv2.imwrite(str(folder / "photos" / "images" / f"theme_{number:02d}.jpg"), image)
        cv2.imwrite(str(folder / "photos" / "instances" / f"theme_{number:02d}.png"), instances)
    return folder


@pytest.fixture(scope="module")
def clip(drawn: Sources) -> Clip:
    return make_clip(drawn, seed=5, side=128, length=4, targets=2, pace=0.5)


def test_clips_are_the_same_again_and_their_masks_disjoint(drawn: Sources, clip: Clip) -> None:
    again = make_clip(drawn, seed=5, side=128, length=4, targets=2, pace=0.5)
    other = make_clip(drawn, seed=6, side=128, length=4, targets=2, pace=0.5)
    assert np.array_equal(clip.frames, again.frames)
    assert np.array_equal(clip.masks, again.masks)
    assert not np.array_equal(clip.frames, other.frames)
    assert clip.frames.shape == (4, 128, 128, 3)
    assert clip.masks.shape == (4, 2, 128, 128)
    assert (clip.masks.sum(1) <= 1).all()
    assert (clip.masks[0].sum((1, 2)) >= 12).all()


def test_rollout_tracks_as_the_tracker_does(clip: Clip) -> None:
    """What is trained is what runs: the same pointers as the plain tracker, object by object, frame by frame."""
    model = small_model(Pooling.SCORE_BIAS)
    rollout = Rollout(model, torch.from_numpy(clip.masks)[None], np.random.default_rng(0))
    with torch.no_grad():
        rollout.run(torch.from_numpy(clip.frames)[None], Plan("mask", clicks=0, corrected=None))
    tracker = ReferenceTracker(model)
    prompts = {number: {"mask": mask > 0} for number, mask in enumerate(clip.masks[0])}
    tracker.track(clip.frames[0], prompts)
    for t in range(1, 4):
        answers = tracker.track(clip.frames[t])
        for number, answer in answers.items():
            ours = rollout.tracked[t - 1][1][number]
            np.testing.assert_allclose(ours, answer.segmentation.pointer[0], atol=1e-4)


@pytest.mark.parametrize("plan", [Plan("mask", 0, 2), Plan("point", 2, None), Plan("box", 1, 3)], ids=lambda p: p.kind)
def test_every_weight_that_matters_gets_a_gradient(plan: Plan, clip: Clip) -> None:
    torch.manual_seed(0)
    model = EfficientTAM(NANO.replace(image_size=128))
    initialise(model)
    rollout = Rollout(model, torch.from_numpy(clip.masks)[None], np.random.default_rng(0))
    tally = rollout.run(torch.from_numpy(clip.frames)[None], plan)
    assert torch.isfinite(tally.loss)
    tally.loss.backward()
    idle = {name for name, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()}
    assert all(part not in name for name in idle for part in ("image_encoder", "memory_attention", "memory_encoder"))
    assert "no_mem_pos_enc" in idle  # never read by this family
    assert len(idle) < 25, idle


def test_single_images_teach_the_encoder_and_the_decoder(data: Path) -> None:
    photos = Photos(data / "photos", held_out=False)
    rng = np.random.default_rng(3)
    stills = [still for still in (photos.still(rng, 128, 3) for _ in range(6)) if still is not None]
    assert stills
    for still in stills:
        for mask, (x, y) in zip(still.masks, still.clicks, strict=True):
            assert mask[int(y), int(x)] == 1
    torch.manual_seed(0)
    model = EfficientTAM(NANO.replace(image_size=128))
    initialise(model)
    tally = still_losses(model, stills, rng)
    assert set(tally.measures) == {"click", "best", "box", "corrected"}
    assert (tally.measures["best"] >= tally.measures["click"]).all()
    tally.loss.backward()
    idle = {name for name, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()}
    assert all(part not in name for name in idle for part in ("image_encoder", "transformer", "hypernetworks"))


def test_held_out_photographs_are_not_trained_on(data: Path) -> None:
    trained, held_out = (Photos(data / "photos", held_out) for held_out in (False, True))
    assert len(held_out) == 2
    assert len(trained) == 10
    assert not set(trained.files) & set(held_out.files)


def test_scenes_follow_the_objects_of_a_photograph_and_cut_outs(data: Path, drawn: Sources) -> None:
    photos = Photos(data / "photos", held_out=False)
    scenes = Scenes(drawn, photos, Videos(None, data), Rendered(None, False))
    clip = scenes.clip(seed=4, side=128, length=5, targets=2, pace=0.8)
    again = scenes.clip(seed=4, side=128, length=5, targets=2, pace=0.8)
    assert np.array_equal(clip.frames, again.frames)
    assert np.array_equal(clip.masks, again.masks)
    assert (clip.masks.sum(1) <= 1).all()
    assert (clip.masks[0].sum((1, 2)) >= 0.003 * 128 * 128).all()


def test_steps_of_muon_are_orthogonal_in_float32() -> None:
    torch.manual_seed(0)
    for shape in ((48, 96), (96, 48)):
        values = torch.linalg.svdvals(orthogonalised(torch.randn(*shape)))
        assert values.min() > 0.5
        assert values.max() < 1.3
        assert values.dtype is torch.float32


def test_batches_for_a_gpu_are_made_by_other_processes(tmp_path: Path, data: Path) -> None:
    import train
    from material import STAGES, Material

    options = argparse.Namespace(
        data=data, output=tmp_path, photos=[], emoji_font=None, processes=1, larger=2, side=128, model="etam_nano"
    )
    batch = next(iter(train.loader(options, STAGES[-1], first=7)))
    ours = Material.of(options).batch(STAGES[-1], 7)
    assert batch.number == 7
    assert batch.kind == ours.kind
    if batch.stills is None:
        assert batch.frames.shape[:2] == (2, STAGES[-1].length)
        assert torch.equal(batch.frames, ours.frames)
    else:
        assert np.array_equal(batch.stills[0].image, ours.stills[0].image)


def test_training_goes_on_where_it_was_stopped(tmp_path: Path, data: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, TRAINER / "train.py", "--output", tmp_path, "--processes", "2", "--device", "cpu"]
    command += ["--data", data, "--side", "128", "--save-every", "0.02", "--evaluate-every", "0"]

    def train(core_hours: float) -> str:
        whole = [*command, "--core-hours", core_hours, "--cool-down", "0.001"]
        done = subprocess.run(list(map(str, whole)), capture_output=True, text=True, timeout=300, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "going on" not in train(0.0005)
    before = last_step(tmp_path)
    assert before >= 1
    assert f"going on from step {before}" in train(0.003)
    assert last_step(tmp_path) > before
    folder = tmp_path / "checkpoint"
    for name in ("weights", "average"):
        state = torch.load(folder / f"{last_step(tmp_path)}.{name}.pt", weights_only=True)
        assert all(torch.isfinite(tensor).all() for tensor in state.values())
    assert len(list(folder.iterdir())) == 5  # latest.json, the weights and their average, two processes' optimizers


def test_a_signal_saves_and_ends_it(tmp_path: Path, data: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, TRAINER / "train.py", "--output", tmp_path, "--processes", "2", "--device", "cpu"]
    command += ["--data", data, "--side", "128", "--save-every", "0.02", "--evaluate-every", "0"]
    training = subprocess.Popen(list(map(str, command)), env=environment, stdout=subprocess.DEVNULL)
    try:
        limit = time.monotonic() + 200
        while not (tmp_path / "checkpoint" / "latest.json").exists() and time.monotonic() < limit:
            time.sleep(0.2)
        training.terminate()
        assert training.wait(timeout=100) == 0
    finally:
        training.kill()
    assert last_step(tmp_path) >= 1


def last_step(training: Path) -> int:
    return int(json.loads((training / "checkpoint" / "latest.json").read_text())["step"])
