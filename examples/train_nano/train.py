"""Train etam_nano from scratch, on one GPU or on the cores of a CPU, within a time budget.

    python examples/train_nano/train.py --budget 60 --device cuda --output out/nano

Everything follows from the budget: frames grow from 128 to 256 pixels and clips from 3 to 7 frames, and the learning
rate falls to zero at the end. Interrupted, it goes on where it was when the same command is given again.

On a CPU one single-threaded process a core shares the weights and takes clips from a common counter: a core that is
busy with something else slows only itself.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.multiprocessing as mp
from clips import make_clip
from rollout import Plan, Rollout
from sources import Sources
from start import initialise
from torch import Tensor

from etam_edge.atomic import atomic_file
from etam_edge.model import EfficientTAM
from etam_edge.spec import ModelSpec, find_spec


@dataclass(frozen=True)
class Phase:
    """A part of the training, until this share of the budget; the rest is what `make_clip` gets."""

    until: float
    side: int
    length: int
    clips: int
    batches: int
    small: float
    pace: float


PHASES = (
    Phase(until=0.30, side=128, length=3, clips=2, batches=4, small=0.25, pace=0.4),
    Phase(until=0.65, side=192, length=5, clips=2, batches=4, small=0.16, pace=0.6),
    Phase(until=1.00, side=256, length=7, clips=1, batches=4, small=0.12, pace=0.8),
)
GPU_CLIPS = 8
"""Times more clips a batch on a GPU, which small batches leave idle."""
OBJECTS = 2
"""Targets in each clip; they share the image encoder."""
MATRIX_RATE, OTHER_RATE, WEIGHT_DECAY = 1e-3, 1e-3, 0.02
WARM_UP_STEPS = 150
CONSTANT_UNTIL = 0.3
"""Share of the budget with the full learning rate; then it falls linearly to zero."""
CLIP_GRADIENT = 1.0
SEED = 20261124


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=float, default=60.0, help="minutes of training in all")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path, default=Path("out/nano"))
    parser.add_argument("--model", default="etam_nano", help="name of the ModelSpec that is trained")
    parser.add_argument("--clips", type=int, help="times more clips a batch; default: 1 on a CPU, 8 on a GPU")
    parser.add_argument(
        "--processes", type=int, default=os.cpu_count(), help="trainers on a CPU, clip makers for a GPU"
    )
    parser.add_argument("--save-every", type=float, default=3.0, help="minutes between checkpoints")
    parser.add_argument("--photos", type=Path, nargs="*", default=[], help="folders with more photographs")
    parser.add_argument(
        "--emoji-font", type=Path, help="a colour bitmap font; default: Noto Color Emoji where installed"
    )
    options = parser.parse_args()
    options.clips = options.clips or (1 if options.device == "cpu" else GPU_CLIPS)
    options.output.mkdir(parents=True, exist_ok=True)
    sources = training_sources(options)
    print(
        f"{len(sources.photos)} photographs, {sources.glyph_count} glyphs, {options.budget:g} min on {options.device}"
    )
    torch.manual_seed(SEED)
    model = EfficientTAM(find_spec(options.model))
    initialise(model)
    model.to(options.device)
    world = options.processes if options.device == "cpu" else 1
    shared = Shared(model, world)
    if world > 1:
        mp.spawn(train, args=(world, options, shared), nprocs=world)
    else:
        train(0, world, options, shared)


def training_sources(options: argparse.Namespace) -> Sources:
    return Sources(False, tuple(options.photos), options.emoji_font, cache=options.output / "cache")


class Shared:
    """What the trainers have in common: the weights, a row of gradients each, the next batch, and the time."""

    def __init__(self, model: EfficientTAM, world: int) -> None:
        self.model = model.share_memory() if world > 1 else model
        size = sum(parameter.numel() for parameter in model.parameters())
        self.gradients = torch.zeros(world, size if world > 1 else 0).share_memory_()
        context = mp.get_context("spawn")
        self.barrier = context.Barrier(world)
        self.lock = context.Lock()
        self.next = context.Value("q", 0)
        self.step = context.Value("q", 0)
        self.elapsed = context.Value("d", 0.0)
        self.log = context.Manager().list()


class Batches(torch.utils.data.Dataset):
    """Batches of clips by number, the same for the same phase and number."""

    def __init__(self, phase: Phase, options: argparse.Namespace, sources: Sources | None = None) -> None:
        self.phase, self.options, self.sources = phase, options, sources

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor, Plan, int]:
        cv2.setNumThreads(1)
        if self.sources is None:  # in a loader's process
            self.sources = training_sources(self.options)
        phase, count = self.phase, self.phase.clips * self.options.clips
        clips = [
            make_clip(
                self.sources,
                SEED + number * count + index,
                phase.side,
                phase.length,
                OBJECTS,
                phase.small,
                phase.pace,
            )
            for index in range(count)
        ]
        plan = Plan.draw(np.random.default_rng((SEED, number)), phase.length)
        frames = torch.from_numpy(np.stack([clip.frames for clip in clips]))
        masks = torch.from_numpy(np.stack([clip.masks for clip in clips]))
        return frames, masks, plan, number


class Trainer:
    """One process of the training: computes gradients, and updates its own share of the weights."""

    def __init__(self, rank: int, world: int, options: argparse.Namespace, shared: Shared) -> None:
        self.rank, self.world, self.options, self.shared = rank, world, options, shared
        self.device = torch.device(options.device)
        self.base = shared.model
        self.parameters = dict(self.base.named_parameters())
        self.sources = training_sources(options)
        self.models = {phase.side: resized(self.base, phase.side) for phase in PHASES}
        self.optimizers = self._optimizers()
        self.stream: Iterator[Any] | None = None
        self.phase = PHASES[0]

    def _optimizers(self) -> list[torch.optim.Optimizer]:
        # Dealt out by size, so that every process has about the same to do.
        names = sorted(self.parameters, key=lambda name: -self.parameters[name].numel())[self.rank :: self.world]
        self.own = sorted(names)
        matrices = [name for name in self.own if _is_matrix(name, self.parameters[name])]
        others = [name for name in self.own if name not in matrices]
        self.groups = [matrices, others]
        # Orthogonalised steps for matrices, Adam's for everything else, at comparable sizes.
        return [
            torch.optim.Muon(
                [self.parameters[name] for name in matrices],
                lr=MATRIX_RATE,
                weight_decay=WEIGHT_DECAY,
                adjust_lr_fn="match_rms_adamw",
            ),
            torch.optim.AdamW(
                [self.parameters[name] for name in others], lr=OTHER_RATE, weight_decay=0.0, betas=(0.9, 0.95)
            ),
        ]

    def gradients(self, batch: tuple[Tensor, Tensor, Plan, int]) -> dict[str, float]:
        """Add one batch's gradients to the weights' own; what it measured."""
        frames, masks, plan, number = batch
        torch.manual_seed(SEED + number)
        with torch.autocast(self.device.type, torch.bfloat16):
            rollout = Rollout(self.models[self.phase.side], masks.to(self.device), np.random.default_rng((number, 1)))
            tally = rollout.run(frames.to(self.device), plan)
        (tally.loss / tally.answers / self.phase.batches).backward()
        measured = {name: value / tally.answers for name, value in tally.parts.items()}
        ious, right = torch.cat(tally.ious), torch.cat(tally.scores_right)
        return {**measured, "tracked_iou": float(ious.mean()), "in_sight_right": float(right.float().mean())}

    def batches(self) -> Iterator[tuple[Tensor, Tensor, Plan, int]]:
        """This process's batches of one step."""
        phase, shared = self.phase, self.shared
        first = shared.step.value * max(phase.batches for phase in PHASES)
        if self.device.type == "cpu":
            maker = Batches(phase, self.options, self.sources)
            while True:
                with shared.lock:
                    index = shared.next.value
                    shared.next.value += 1
                if index >= phase.batches:
                    return
                yield maker[first + index]
        if self.stream is None:
            self.stream = iter(loader(phase, self.options, first))
        for _ in range(phase.batches):
            yield next(self.stream)

    def update(self) -> float:
        """One step of the optimizers on the sum of all processes' gradients; the gradient's norm."""
        shared = self.shared
        if self.world > 1:
            offset = 0
            row = shared.gradients[self.rank]
            for parameter in self.parameters.values():
                part = row[offset : offset + parameter.numel()]
                part.zero_() if parameter.grad is None else part.copy_(parameter.grad.reshape(-1))
                parameter.grad = None
                offset += parameter.numel()
            shared.barrier.wait()
            total = shared.gradients.sum(0)
            norm = float(total.norm())
            offset = 0
            for name, parameter in self.parameters.items():
                if name in self.own:
                    parameter.grad = total[offset : offset + parameter.numel()].reshape(parameter.shape).clone()
                offset += parameter.numel()
        else:
            norm = float(torch.stack([p.grad.norm() for p in self.parameters.values() if p.grad is not None]).norm())
        if np.isfinite(norm):
            rate = schedule(shared.step.value, shared.elapsed.value / (60 * self.options.budget))
            for optimizer, full in zip(self.optimizers, (MATRIX_RATE, OTHER_RATE), strict=True):
                for group in optimizer.param_groups:
                    group["lr"] = rate * full
            for name in self.own:
                if self.parameters[name].grad is not None:
                    self.parameters[name].grad.mul_(min(1.0, CLIP_GRADIENT / (norm + 1e-6)))
            for optimizer in self.optimizers:
                optimizer.step()
        for parameter in self.parameters.values():
            parameter.grad = None
        return norm

    def save(self) -> None:
        """A checkpoint: every process its optimizers, the first one the weights; readable only once complete."""
        folder, shared = self.options.output / "checkpoint", self.shared
        step = shared.step.value
        folder.mkdir(exist_ok=True)
        state = {}
        for optimizer, names in zip(self.optimizers, self.groups, strict=True):
            state |= {name: optimizer.state[self.parameters[name]] for name in names}
        torch.save(state, folder / f"{step}.optimizer{self.rank}.pt")
        if self.rank == 0:
            torch.save(self.base.state_dict(), folder / f"{step}.weights.pt")
        shared.barrier.wait()
        if self.rank == 0:
            latest = {
                "step": step,
                "elapsed": shared.elapsed.value,
                "processes": self.world,
                "model": self.options.model,
            }
            with atomic_file(folder / "latest.json") as file:
                file.write(json.dumps(latest).encode())
            for old in folder.glob("*.pt"):
                if not old.name.startswith(f"{step}."):
                    old.unlink()

    def resume(self) -> None:
        """Go on from the last complete checkpoint, if there is one; however many processes wrote it."""
        folder = self.options.output / "checkpoint"
        if not (folder / "latest.json").exists():
            return
        latest = json.loads((folder / "latest.json").read_text())
        step = latest["step"]
        state: dict[str, Any] = {}
        for rank in range(latest["processes"]):
            state |= torch.load(folder / f"{step}.optimizer{rank}.pt", map_location=self.device, weights_only=True)
        if self.rank == 0:
            weights = torch.load(folder / f"{step}.weights.pt", map_location=self.device, weights_only=True)
            self.base.load_state_dict(weights)
            self.shared.step.value, self.shared.elapsed.value = step, latest["elapsed"]
            print(f"going on from step {step}, {latest['elapsed'] / 60:.1f} minutes in")
        for optimizer, names in zip(self.optimizers, self.groups, strict=True):
            for name in names:
                optimizer.state[self.parameters[name]] = state[name]
        self.shared.barrier.wait()


def train(rank: int, world: int, options: argparse.Namespace, shared: Shared) -> None:
    torch.set_num_threads(1 if options.device == "cpu" else torch.get_num_threads())
    trainer = Trainer(rank, world, options, shared)
    trainer.resume()
    budget, saved = 60 * options.budget, shared.elapsed.value
    log = Log(options.output / "log.csv") if rank == 0 else None
    started = time.monotonic() - shared.elapsed.value
    while True:
        if rank == 0:
            shared.elapsed.value = time.monotonic() - started
            shared.next.value = 0
        shared.barrier.wait()
        if shared.elapsed.value >= budget:
            break
        phase = next(phase for phase in PHASES if shared.elapsed.value / budget < phase.until)
        if phase is not trainer.phase:
            trainer.phase, trainer.stream = phase, None
        measured = [trainer.gradients(batch) for batch in trainer.batches()]
        shared.log.extend(measured)
        norm = trainer.update()
        if rank == 0:
            shared.step.value += 1
        shared.barrier.wait()
        if log:
            log.add(shared.step.value, shared.elapsed.value, phase.side, norm, list(shared.log))
            shared.log[:] = []
        if shared.elapsed.value - saved > 60 * options.save_every:
            saved = shared.elapsed.value
            trainer.save()
        shared.barrier.wait()
    trainer.save()


class Log:
    """Averages of every few steps, to a CSV file and the screen."""

    EVERY = 20
    NAMES = ("mask", "iou", "score", "tracked_iou", "in_sight_right")

    def __init__(self, file: Path) -> None:
        new = not file.exists()
        self.file = open(file, "a", newline="")  # noqa: SIM115 - open as long as the training runs
        self.writer = csv.writer(self.file)
        if new:
            self.writer.writerow(["step", "minutes", "side", "gradient", *self.NAMES])
        self.rows: list[dict[str, float]] = []
        self.norms: list[float] = []

    def add(self, step: int, elapsed: float, side: int, norm: float, measured: list[dict[str, float]]) -> None:
        self.rows += measured
        self.norms.append(norm)
        if len(self.norms) < self.EVERY:
            return
        means = [float(np.nanmean([row[name] for row in self.rows])) for name in self.NAMES]
        row = [step, round(elapsed / 60, 2), side, round(float(np.mean(self.norms)), 4), *(round(m, 4) for m in means)]
        self.writer.writerow(row)
        self.file.flush()
        values = "  ".join(f"{name} {mean:.3f}" for name, mean in zip(self.NAMES, means, strict=True))
        print(f"step {step:6d}  {elapsed / 60:6.1f} min  {side} px  gradient {row[3]:.2f}  {values}", flush=True)
        self.rows, self.norms = [], []


def loader(phase: Phase, options: argparse.Namespace, first: int) -> torch.utils.data.DataLoader:
    """Batches from number `first` on, made by other processes while a GPU works."""
    return torch.utils.data.DataLoader(
        Batches(phase, options),
        batch_size=None,
        sampler=range(first, first + 10_000_000),
        num_workers=options.processes,
        prefetch_factor=4,
        multiprocessing_context="spawn",
    )


def schedule(step: int, progress: float) -> float:
    """Learning rate as a share of the full one."""
    return min(1.0, (step + 1) / WARM_UP_STEPS) * min(1.0, max(0.0, (1 - progress) / (1 - CONSTANT_UNTIL)))


def resized(base: EfficientTAM, side: int) -> EfficientTAM:
    """The model at another image size, on the very same parameters."""
    spec: ModelSpec = base.spec.replace(image_size=side)
    model = EfficientTAM(spec).to(next(base.parameters()).device)
    for name, module in base.named_modules():
        other = model.get_submodule(name)
        for key, parameter in module.named_parameters(recurse=False):
            setattr(other, key, parameter)
        saved = module.state_dict()  # tables that depend on the size are not
        for key, buffer in module.named_buffers(recurse=False):
            if key in saved:
                other.register_buffer(key, buffer)
    return model


def _is_matrix(name: str, parameter: Tensor) -> bool:
    return parameter.ndim == 2 and min(parameter.shape) >= 16 and "embed" not in name and "token" not in name


if __name__ == "__main__":
    main()
