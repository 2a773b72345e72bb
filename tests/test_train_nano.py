"""The trainer of the small model: clips, rollouts, and a training that goes on where it was stopped."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from etam_edge.spec import NANO, Pooling
from etam_edge_testing.small import small_model

torch = pytest.importorskip("torch")
pytest.importorskip("cv2")

TRAINER = Path(__file__).resolve().parents[1] / "examples" / "train_nano"
sys.path.insert(0, str(TRAINER))

from clips import Clip, make_clip  # noqa: E402
from rollout import Plan, Rollout  # noqa: E402
from sources import Sources  # noqa: E402
from start import initialise  # noqa: E402

from etam_edge.model import EfficientTAM, ReferenceTracker  # noqa: E402


@pytest.fixture(scope="module")
def drawn() -> Sources:
    """Nothing but drawn textures and shapes: what there is on any machine."""
    sources = Sources(held_out=False, emoji_font=None)
    sources.photos = []
    return sources


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


def test_batches_for_a_gpu_are_made_by_other_processes(tmp_path: Path) -> None:
    import train

    options = argparse.Namespace(output=tmp_path, photos=[], emoji_font=None, processes=1, clips=2)
    phase = train.PHASES[0]
    frames, masks, plan, number = next(iter(train.loader(phase, options, first=7)))
    assert number == 7
    assert frames.shape == (2 * phase.clips, phase.length, phase.side, phase.side, 3)
    assert masks.shape == (2 * phase.clips, phase.length, train.OBJECTS, phase.side, phase.side)
    assert plan.kind in ("mask", "point", "box")
    ours = train.Batches(phase, options)[7]
    assert torch.equal(ours[0], frames)


def test_training_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def train(minutes: float) -> str:
        command = [sys.executable, TRAINER / "train.py", "--output", tmp_path, "--processes", "2", "--device", "cpu"]
        command += ["--budget", str(minutes), "--save-every", "0.02"]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "going on" not in train(0.05)
    weights = next((tmp_path / "checkpoint").glob("*.weights.pt"))
    before = int(weights.name.split(".")[0])
    assert before >= 1
    assert f"going on from step {before}" in train(0.25)
    weights = next((tmp_path / "checkpoint").glob("*.weights.pt"))
    assert int(weights.name.split(".")[0]) > before
    state = torch.load(weights, weights_only=True)
    assert all(torch.isfinite(tensor).all() for tensor in state.values())
    assert len(list((tmp_path / "checkpoint").iterdir())) == 4  # latest.json, the weights, two processes' optimizers
