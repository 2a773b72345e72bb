"""Train etam_nano, on one GPU or on the cores of a CPU, for as long as there is time.

    python examples/train_nano/train.py --data DATA_FOLDER --output out/nano

It starts from the weights in the package and goes through the stages of `STAGES`; the same command given again goes on
from the last checkpoint. SIGTERM and Ctrl-C save and end it. With --core-hours it ends there, and with --cool-down the
learning rate falls to zero over the last part.

On a CPU one single-threaded process a core shares the weights and takes batches from a common counter: a core that is
busy with something else slows only itself. Time is counted as the processors' time that the training used, so that a
pause counts nothing.
"""

from __future__ import annotations

import argparse
import copy
import csv
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.multiprocessing as mp
from held_out import photograph_ious, summary
from material import STAGES, Batch, Material, Stage, stage_at
from muon import Muon
from rollout import Rollout, Tally
from safetensors.torch import load_file, save_file
from start import initialise
from stills import still_losses
from torch import Tensor

import etam_edge
from etam_edge.atomic import atomic_file
from etam_edge.model import EfficientTAM
from etam_edge.spec import find_spec

RATE, WEIGHT_DECAY = 8e-4, 0.02
WARM_UP_STEPS = 50
CLIP_GRADIENT = 1.0
BATCHES = 4
"""Batches of one step; the processes take them from a common counter."""
AVERAGE = 0.999
"""Decay of the averaged weights, a step."""
CORRECTED = 0.3
"""Share of the batches of photographs with corrective clicks, which cost as much as the first prompts."""
EVALUATED_CLIPS = 16
SEED = 20261128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, help="folder with photos/, videos/ and rendered/; what is missing is left out"
    )
    parser.add_argument("--output", type=Path, default=Path("out/nano"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--model", default="etam_nano", help="name of the ModelSpec that is trained")
    parser.add_argument("--start", default="packaged", help="'packaged', 'scratch', or a safetensors file")
    parser.add_argument("--core-hours", type=float, help="ends after so many in all (on a GPU: hours); default: never")
    parser.add_argument(
        "--cool-down", type=float, default=0.0, help="the last core-hours, in which the rate falls to 0"
    )
    parser.add_argument("--stage", choices=[stage.name for stage in STAGES], help="this stage from first to last")
    parser.add_argument("--rate", type=float, default=RATE, help="learning rate")
    parser.add_argument("--optimizer", choices=("muon", "adamw"), default="muon", help="of the matrices")
    parser.add_argument("--side", type=int, help="frame side in pixels; default: the model's")
    parser.add_argument("--larger", type=int, help="times more a batch; default: 1 on a CPU, 8 on a GPU")
    parser.add_argument(
        "--processes", type=int, default=os.cpu_count(), help="trainers on a CPU, makers of batches for a GPU"
    )
    parser.add_argument("--save-every", type=float, default=3.0, help="minutes between checkpoints")
    parser.add_argument("--evaluate-every", type=float, default=15.0, help="minutes between evaluations; 0: never")
    parser.add_argument("--photos", type=Path, nargs="*", default=[], help="folders with more photographs, no masks")
    parser.add_argument(
        "--emoji-font", type=Path, help="a colour bitmap font; default: Noto Color Emoji where installed"
    )
    options = parser.parse_args()
    options.larger = options.larger or (1 if options.device == "cpu" else 8)
    options.output.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(SEED)
    spec = find_spec(options.model)
    model = EfficientTAM(spec.replace(image_size=options.side) if options.side else spec)
    if options.start == "scratch":
        initialise(model)
    else:
        packaged = Path(etam_edge.__file__).parent / "weights" / f"{options.model}.safetensors"
        weights = load_file(packaged if options.start == "packaged" else options.start)
        model.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    if not (
        options.output / "start.safetensors"
    ).exists():  # pack.py can interpolate between these and the trained ones
        save_file(model.state_dict(), options.output / "start.safetensors")
    model.to(options.device)
    world = options.processes if options.device == "cpu" else 1
    print(f"{Material.of(options)}, on {options.device}, {world} process(es)", flush=True)
    note(options)
    shared = Shared(model, world)
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, shared.stop)
    if world > 1:
        mp.spawn(train, args=(world, options, shared), nprocs=world)
    else:
        train(0, world, options, shared)


def note(options: argparse.Namespace) -> None:
    """A line for this start: on which processor, with which settings."""
    bfloat16 = _has_bfloat16(torch.device(options.device))
    settings = {name: getattr(options, name) for name in ("rate", "optimizer", "side", "stage", "processes")}
    line = {"processor": processor(options.device), "arithmetic": "bfloat16" if bfloat16 else "float32", **settings}
    with open(options.output / "runs.jsonl", "a") as file:
        file.write(json.dumps(line) + "\n")


def processor(device: str) -> str:
    """The name of what computes; of a CPU also its widest vectors."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    names = [line.split(":")[1].strip() for line in info.splitlines() if line.startswith("model name")]
    widest = next((name for flag, name in (("avx512f", "AVX-512"), ("avx2", "AVX2")) if flag in info), "")
    return f"{names[0] if names else 'a CPU'}{' with ' + widest if widest else ''}"


class Shared:
    """What the trainers have in common: the weights, a row of gradients each, the next batch, and the time."""

    def __init__(self, model: EfficientTAM, world: int) -> None:
        self.model, self.average = model, copy.deepcopy(model).requires_grad_(False).eval()
        if world > 1:
            self.model.share_memory()
            self.average.share_memory()
        size = sum(parameter.numel() for parameter in model.parameters())
        self.gradients = torch.zeros(world, size if world > 1 else 0).share_memory_()
        context = mp.get_context("spawn")
        self.barrier = context.Barrier(world)
        self.lock = context.Lock()
        self.next = context.Value("q", 0)
        self.step = context.Value("q", 0)
        self.before = context.Value("d", 0.0)
        self.used = context.Array("d", [0.0] * world)
        self.stopped = context.Value("b", 0, lock=False)
        self.ends = context.Value("b", 0, lock=False)
        self.log = context.Manager().list()

    def stop(self, *_: Any) -> None:
        self.stopped.value = 1

    @property
    def hours(self) -> float:
        """Core-hours of the training, on a GPU its hours."""
        return self.before.value + sum(self.used) / 3600


class Trainer:
    """One process of the training: computes gradients, and updates its own share of the weights."""

    def __init__(self, rank: int, world: int, options: argparse.Namespace, shared: Shared) -> None:
        self.rank, self.world, self.options, self.shared = rank, world, options, shared
        self.device = torch.device(options.device)
        self.base = shared.model
        self.parameters = dict(self.base.named_parameters())
        self.averages = dict(shared.average.named_parameters())
        self.material = Material.of(options)
        self.optimizers = self._optimizers()
        self.stream: Iterator[Batch] | None = None
        self.clock = time.monotonic if self.device.type == "cuda" else time.process_time
        self.lower = torch.bfloat16 if _has_bfloat16(self.device) else None

    def _optimizers(self) -> list[torch.optim.Optimizer]:
        # Dealt out by size, so that every process has about the same to do.
        names = sorted(self.parameters, key=lambda name: -self.parameters[name].numel())[self.rank :: self.world]
        self.own = sorted(names)
        muon = self.options.optimizer == "muon"
        matrices = [name for name in self.own if muon and _is_matrix(name, self.parameters[name])]
        others = [name for name in self.own if name not in matrices]
        self.groups = [matrices, others]
        # Orthogonalised steps for matrices, Adam's for everything else, at comparable sizes.
        chosen: list[torch.optim.Optimizer] = [
            torch.optim.AdamW([self.parameters[n] for n in others], lr=RATE, weight_decay=0.0, betas=(0.9, 0.98))
        ]
        if matrices:
            chosen.insert(0, Muon([self.parameters[n] for n in matrices], lr=RATE, weight_decay=WEIGHT_DECAY))
        else:
            self.groups = [others]
        return chosen

    def gradients(self, batch: Batch) -> dict[str, float]:
        """Add one batch's gradients to the weights' own; what it measured."""
        torch.manual_seed(SEED + batch.number)
        rng = np.random.default_rng((batch.number, 1))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.lower is not None):
            if batch.stills is not None:
                tally = still_losses(self.base, batch.stills, rng, correct=rng.random() < CORRECTED)
            else:
                if batch.frames is None:
                    raise ValueError("a batch has neither stills nor frames")
                tally = Rollout(self.base, batch.masks.to(self.device), rng).run(
                    batch.frames.to(self.device), batch.plan
                )
        (tally.loss / tally.answers / BATCHES).backward()
        return {"kind": batch.kind, **measured(tally)}

    def batches(self) -> Iterator[Batch]:
        """This process's batches of one step."""
        shared = self.shared
        first = shared.step.value * BATCHES
        if self.device.type == "cpu":
            while True:
                with shared.lock:
                    index = shared.next.value
                    shared.next.value += 1
                if index >= BATCHES:
                    return
                yield self.material.batch(self.stage(), first + index)
        if self.stream is None:
            self.stream = iter(loader(self.options, self.stage(), first))
        for _ in range(BATCHES):
            yield next(self.stream)

    def stage(self) -> Stage:
        return stage_at(self.shared.hours, self.options.stage)

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
            rate = self.options.rate * self.schedule()
            for optimizer in self.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = rate
            own = [self.parameters[name] for name in self.own]
            for parameter in own:
                if parameter.grad is not None:
                    parameter.grad.mul_(min(1.0, CLIP_GRADIENT / (norm + 1e-6)))
            for optimizer in self.optimizers:
                optimizer.step()
            step = shared.step.value
            with torch.no_grad():
                decay = min(AVERAGE, (1 + step) / (10 + step))
                torch._foreach_lerp_([self.averages[name] for name in self.own], own, 1 - decay)
        for parameter in self.parameters.values():
            parameter.grad = None
        return norm

    def schedule(self) -> float:
        """Learning rate as a share of the full one."""
        share = min(1.0, (self.shared.step.value + 1) / WARM_UP_STEPS)
        if self.options.core_hours and self.options.cool_down:
            share *= min(1.0, max(0.0, (self.options.core_hours - self.shared.hours) / self.options.cool_down))
        return share

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
            torch.save(shared.average.state_dict(), folder / f"{step}.average.pt")
        shared.barrier.wait()
        if self.rank == 0:
            latest = {
                "step": step,
                "core_hours": shared.hours,
                "processes": self.world,
                "model": self.options.model,
            }
            with atomic_file(folder / "latest.json") as file:
                file.write(json.dumps(latest).encode())
            for old in folder.glob("*.pt"):
                if not old.name.startswith(f"{step}."):
                    old.unlink()
        shared.barrier.wait()

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
            for name, model in (("weights", self.base), ("average", self.shared.average)):
                file = folder / f"{step}.{name}.pt"
                model.load_state_dict(torch.load(file, map_location=self.device, weights_only=True))
            self.shared.step.value, self.shared.before.value = step, latest["core_hours"]
            print(f"going on from step {step}, {latest['core_hours']:.2f} core-hours in", flush=True)
        for optimizer, names in zip(self.optimizers, self.groups, strict=True):
            for name in names:
                optimizer.state[self.parameters[name]] = state[name]
        self.shared.barrier.wait()

    def evaluate(self) -> dict[str, float]:
        """The averaged weights on held-out photographs and clips; every process measures its part."""
        shared, model = self.shared, self.shared.average
        shared.barrier.wait()
        if self.rank == 0:
            shared.log[:] = []
        shared.barrier.wait()
        files = self.material.held_out_photos.files[self.rank :: self.world]
        shared.log.extend([("photo", row) for row in photograph_ious(model, files)])
        for number in range(self.rank, EVALUATED_CLIPS, self.world):
            batch = self.material.held_out_clip(number)
            rollout = Rollout(model, batch.masks.to(self.device), np.random.default_rng(number))
            with torch.no_grad():
                rollout.run(batch.frames.to(self.device), batch.plan)
            shared.log.append((batch.kind, measured(rollout.tally)))
        shared.barrier.wait()
        rows = list(shared.log)
        shared.barrier.wait()
        if self.rank == 0:
            shared.log[:] = []
        photos = [row for kind, row in rows if kind == "photo"]
        found = summary(photos) if photos else {}
        for kind in sorted({kind for kind, _ in rows} - {"photo"}):
            mine = [row for other, row in rows if other == kind]
            found[f"{kind}_tracked"] = float(np.nanmean([row["tracked"] for row in mine]))
            found[f"{kind}_in_sight"] = float(np.nanmean([row["in_sight"] for row in mine]))
        return found


def measured(tally: Tally) -> dict[str, float]:
    found = {name: value / tally.answers for name, value in tally.parts.items()}
    found |= {name: float(values.mean()) for name, values in tally.measures.items()}
    if tally.ious:
        ious, right = torch.cat(tally.ious), torch.cat(tally.scores_right)
        found |= {"tracked": float(ious.mean()), "in_sight": float(right.float().mean())}
    return found


def train(rank: int, world: int, options: argparse.Namespace, shared: Shared) -> None:
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, shared.stop)
    cv2.setNumThreads(1)
    torch.set_num_threads(1 if options.device == "cpu" else torch.get_num_threads())
    trainer = Trainer(rank, world, options, shared)
    trainer.resume()
    log = Log(options.output / "log.csv") if rank == 0 else None
    saved = evaluated = time.monotonic()
    begin = trainer.clock()
    while True:
        shared.used[rank] = trainer.clock() - begin
        if rank == 0:
            shared.next.value = 0
            over = options.core_hours is not None and shared.hours >= options.core_hours
            now = time.monotonic()
            # One process decides for all, or they would wait for each other for ever.
            save, evaluate = now - saved > 60 * options.save_every, now - evaluated > 60 * options.evaluate_every > 0
            shared.ends.value = 1 if shared.stopped.value or over else 2 if evaluate else 3 if save else 0
            saved, evaluated = now if save or evaluate else saved, now if evaluate else evaluated
        shared.barrier.wait()
        decided = shared.ends.value
        if decided:
            trainer.save()
        if decided == 1:
            break
        if decided == 2:
            found = trainer.evaluate()
            if rank == 0:
                record(options.output / "held_out.jsonl", shared, found)
        mine = [trainer.gradients(batch) for batch in trainer.batches()]
        shared.log.extend(mine)
        norm = trainer.update()
        if rank == 0:
            shared.step.value += 1
        shared.barrier.wait()
        if log:
            log.add(shared.step.value, shared.hours, trainer.stage().name, norm, list(shared.log))
            shared.log[:] = []
        shared.barrier.wait()


def record(file: Path, shared: Shared, found: dict[str, float]) -> None:
    """A line of held-out figures, to a file of JSON lines and to the screen."""
    row = {"step": shared.step.value, "core_hours": round(shared.hours, 4)}
    row |= {name: round(value, 4) for name, value in found.items()}
    with open(file, "a") as lines:
        lines.write(json.dumps(row) + "\n")
    print("held out: " + "  ".join(f"{name} {value:g}" for name, value in row.items()), flush=True)


class Log:
    """Averages of every few steps, to a CSV file and the screen."""

    EVERY = 20
    NAMES = ("mask", "iou", "score", "click", "best", "box", "corrected", "tracked", "in_sight")

    def __init__(self, file: Path) -> None:
        new = not file.exists()
        self.file = open(file, "a", newline="")  # noqa: SIM115 - open as long as the training runs
        self.writer = csv.writer(self.file)
        if new:
            self.writer.writerow(["step", "core_hours", "stage", "gradient", *self.NAMES])
        self.rows: list[dict[str, float]] = []
        self.norms: list[float] = []

    def add(self, step: int, hours: float, stage: str, norm: float, measures: list[dict[str, float]]) -> None:
        self.rows += measures
        self.norms.append(norm)
        if len(self.norms) < self.EVERY:
            return
        means = [_mean([row[name] for row in self.rows if name in row]) for name in self.NAMES]
        row = [step, round(hours, 4), stage, round(float(np.mean(self.norms)), 4), *(round(m, 4) for m in means)]
        self.writer.writerow(row)
        self.file.flush()
        values = "  ".join(f"{name} {mean:.3f}" for name, mean in zip(self.NAMES, means, strict=True))
        print(f"step {step:6d}  {hours:6.3f} core-h  {stage}  gradient {row[3]:.2f}  {values}", flush=True)
        self.rows, self.norms = [], []


class Batches(torch.utils.data.Dataset):
    """Batches by number for a loader's processes."""

    def __init__(self, options: argparse.Namespace, stage: Stage) -> None:
        self.options, self.stage, self.material = options, stage, None

    def __getitem__(self, number: int) -> Batch:
        cv2.setNumThreads(1)
        self.material = self.material or Material.of(self.options)
        return self.material.batch(self.stage, number)


def loader(options: argparse.Namespace, stage: Stage, first: int) -> torch.utils.data.DataLoader:
    """Batches from number `first` on, made by other processes while a GPU works."""
    return torch.utils.data.DataLoader(
        Batches(options, stage),
        batch_size=None,
        sampler=range(first, first + 10_000_000),
        num_workers=options.processes,
        prefetch_factor=4,
        multiprocessing_context="spawn",
    )


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else float("nan")


def _has_bfloat16(device: torch.device) -> bool:
    """Whether products in bfloat16 are faster than in float32, not emulated."""
    if device.type == "cuda":
        return True
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    return "avx512_bf16" in flags or "amx_bf16" in flags


def _is_matrix(name: str, parameter: Tensor) -> bool:
    return parameter.ndim == 2 and min(parameter.shape) >= 16 and "embed" not in name and "token" not in name


if __name__ == "__main__":
    main()
