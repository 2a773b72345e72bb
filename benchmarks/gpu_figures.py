"""TensorRT beside the PyTorch model on a GPU: milliseconds and memory, interleaved in one run.

    python -m benchmarks.gpu_figures                                # efficienttam_ti_512x512 and efficienttam_ti_2
    python -m benchmarks.gpu_figures efficienttam_ti --checkpoint efficienttam_ti.pt
    python -m benchmarks.gpu_figures --bundle bundles/robot-fp16 --bundle bundles/robot-int8 --no-torch

Exports each model in fp16 and int8 (or takes bundles), builds engines for this GPU, and follows one object with a full
memory. Weights are seeded without --checkpoint: time does not depend on what they say. The PyTorch model runs under
bfloat16 autocast, as the reference does, eager and under torch.compile. Accuracy is not measured here: that is what
`etam-edge check` is for. Prints tables in Markdown: whole frames, stages of a frame, and memory of the GPU. A whole
frame is from a frame in host memory to its mask, of the same size, in host memory. With --bundle and --no-torch no
torch is needed.
"""

from __future__ import annotations

import argparse
import gc
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from PIL import Image

from etam_edge import Prompt, Tracker
from etam_edge.bundle import Bundle
from etam_edge.bundle.engines import TENSORRT
from etam_edge.errors import EtamError, InputError, RuntimeUnavailableError
from etam_edge.media import crossing
from etam_edge.media.datasets import find_clips
from etam_edge.media.playback import PlayedFrame, play
from etam_edge.media.prompt_plan import PromptPlan
from etam_edge.media.sources import NamedFrame
from etam_edge.runtimes import observer
from etam_edge.runtimes.backends.cuda.driver import Cuda
from etam_edge.runtimes.backends.cuda.open import open_cuda
from etam_edge.runtimes.backends.tensorrt.tensorrt_module import import_tensorrt
from etam_edge.runtimes.resample import resize_frame
from etam_edge.spec import ModelSpec, find_spec
from etam_edge_testing.goldens import seeded_weights

if TYPE_CHECKING:
    from torch import Tensor

    from etam_edge.model import EfficientTAM

MODELS = ("efficienttam_ti_512x512", "efficienttam_ti_2")
PRECISIONS = ("fp16", "int8")
SEED = 11
WARM_UP = 24
"""Frames that are not counted: memory and pointers are full after 16, and compilers and recorded calls are done."""
CALIBRATION_FRAMES = 20
CLICK = (0.25, 0.6)
"""The prompt, in parts of the frame."""
RESIZE, ENCODE, TRACK, MASKS = STAGES = ("resize", "upload and encode", "track", "download and masks")
QUANTILES = (50, 95, 99)
EARLY = 50
"""The frame whose memory the last one's is compared with."""

Compile = Callable[[Any], Any]


class Clock:
    """Milliseconds of each stage of a frame. Waits for the GPU at the end of each, which whole frames do not."""

    def __init__(self, wait: Callable[[], None]) -> None:
        self._wait = wait
        self._since = 0.0
        self._next = len(STAGES)
        self.times: dict[str, list[float]] = {stage: [] for stage in STAGES}

    def begin(self) -> None:
        self._wait()
        self._next = 0
        self._since = time.perf_counter()

    def mark(self, stage: str) -> None:
        """The stage has ended. Where it is not the next to end, nothing happens: prompts and stores are of another."""
        if self._next == len(STAGES) or STAGES[self._next] != stage:
            return
        self._wait()
        now = time.perf_counter()
        self.times[stage].append(1e3 * (now - self._since))
        self._since = now
        self._next += 1


class Runner(Protocol):
    """Somebody who tracks one object through a stream."""

    clock: Clock | None

    def step(self, frame: np.ndarray, prompted: bool) -> np.ndarray:
        """uint8 (H, W, 3) to the object's mask, bool (H, W); it is clicked on where the frame is `prompted`."""

    def wait(self) -> None:
        """For all that the GPU was given to do."""

    def close(self) -> None:
        """Give the GPU's memory back."""


# --- engines ---


class EngineRunner:
    """A session on engines.

    Args:
        tracker: on a CUDA device; closed with the runner.
        staged: whether to time stages.
    """

    def __init__(self, tracker: Tracker, staged: bool = False) -> None:
        self._backend: Any = tracker.backend
        self.clock = Clock(self.wait) if staged else None
        marks = None if self.clock is None else _StageMarks(self.clock)
        self._session = tracker.start_session(max_objects=1, observer=marks)

    def step(self, frame: np.ndarray, prompted: bool) -> np.ndarray:
        mask = self._session.track(frame, {1: _click(frame)} if prompted else None).masks[0]
        if self.clock is not None:
            self.clock.mark(MASKS)
        return mask

    def wait(self) -> None:
        self._backend.device.synchronize()

    def close(self) -> None:
        del self._session
        self._backend.close()


class _StageMarks:
    """A session observer that marks the end of stages on a clock."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def begin(self, stage: str) -> None:
        if stage == observer.UPLOAD:
            # The first upload in a frame is the frame itself, which has been resized.
            self._clock.mark(RESIZE)

    def end(self, stage: str) -> None:
        if stage in (observer.ENCODE, observer.TRACK):
            self._clock.mark(ENCODE if stage == observer.ENCODE else TRACK)


# --- the PyTorch model ---


class TorchRunner:
    """The PyTorch model with its own tracker, which keeps every frame, as the reference does.

    Args:
        model: in evaluation mode; it is moved to the device.
        device: "cuda", or "cpu" to try this.
        compiled: what compiles a function; None for eager.
        staged: whether to time stages.
    """

    def __init__(
        self, model: EfficientTAM, device: str = "cuda", compiled: Compile | None = None, staged: bool = False
    ) -> None:
        from etam_edge.model import ReferenceTracker

        self._device = device
        self.clock = Clock(self.wait) if staged else None
        self._size = model.spec.image_size
        self._tracker = ReferenceTracker(_ModelOnDevice(model, device, compiled, self.clock))  # type: ignore[arg-type]

    def step(self, frame: np.ndarray, prompted: bool) -> np.ndarray:
        import torch
        import torch.nn.functional as F

        resized = resize_frame(frame, self._size)
        self._mark(RESIZE)
        points = np.array([CLICK]) * self._size
        prompts = {1: {"points": points, "labels": np.array([1])}} if prompted else {}
        # A copy, since NumPy's view of an image cannot be written to, of which torch warns.
        memory = self._tracker.track(np.array(resized), prompts)[1]
        self._mark(TRACK)
        with torch.inference_mode():
            logits = memory.segmentation.mask_logits.float()
            mask = F.interpolate(logits, frame.shape[:2], mode="bilinear", align_corners=False)[0, 0] > 0
            found: np.ndarray = mask.cpu().numpy()
        self._mark(MASKS)
        return found

    def wait(self) -> None:
        import torch

        if self._device == "cuda":
            torch.cuda.synchronize()

    def close(self) -> None:
        import torch

        del self._tracker
        gc.collect()
        if self._device == "cuda":
            torch.cuda.empty_cache()

    def _mark(self, stage: str) -> None:
        if self.clock is not None:
            self.clock.mark(stage)


class _ModelOnDevice:
    """The verbs of `EfficientTAM` that `ReferenceTracker` calls: arguments go to the device, autocast is bfloat16.

    Compiled verbs are compiled for the shapes of a full memory; until it is full, `condition` runs eagerly. What they
    answer is cloned, since recorded CUDA graphs write to the same place again.
    """

    def __init__(self, model: EfficientTAM, device: str, compiled: Compile | None, clock: Clock | None) -> None:
        import torch

        self._torch, self._device, self._compiled, self._clock = torch, device, compiled is not None, clock
        self._model = model = model.to(device)
        self.spec = model.spec
        self.mask_downsample = model.mask_downsample
        self.maskmem_tpos_enc, self.memory_position = model.maskmem_tpos_enc, model.memory_position
        self.without_memory = model.without_memory
        compile_: Compile = compiled or (lambda function: function)
        self._verbs = {name: compile_(getattr(model, name)) for name in ("encode", "condition", "segment", "remember")}
        self._tokens = model.spec.width // model.spec.memory_width * model.spec.max_object_pointers

    def encode(self, frame: Tensor) -> Tensor:
        if self._compiled:
            self._torch.compiler.cudagraph_mark_step_begin()
        features: Tensor = self._call(self._verbs["encode"], frame)
        if self._clock is not None:
            self._clock.mark(ENCODE)
        return features

    def condition(self, features: Tensor, memory: Tensor, position: Tensor, pointers: Tensor) -> Tensor:
        full = pointers.shape[1] == self._tokens
        verb = self._verbs["condition"] if full else self._model.condition
        conditioned: Tensor = self._call(verb, features, memory, position, pointers)
        return conditioned

    def segment(
        self, features: Tensor, points: Tensor, labels: Tensor, mask_logits: Tensor | None, multimask: bool
    ) -> Any:
        return self._call(self._verbs["segment"], features, points, labels, mask_logits, multimask)

    def remember(self, features: Tensor, mask_logits: Tensor, binarise: bool) -> Tensor:
        memory: Tensor = self._call(self._verbs["remember"], features, mask_logits, binarise)
        return memory

    def _call(self, verb: Any, *arguments: Any) -> Any:
        tensor = self._torch.Tensor
        moved = [value.to(self._device) if isinstance(value, tensor) else value for value in arguments]
        with self._torch.autocast(self._device, self._torch.bfloat16):
            answer = verb(*moved)
        if not self._compiled:
            return answer
        return answer.clone() if isinstance(answer, tensor) else type(answer)(*(part.clone() for part in answer))


# --- measuring ---


def whole_frames(runners: Mapping[str, Runner], frames: Sequence[np.ndarray], count: int) -> dict[str, list[float]]:
    """Milliseconds of `count` frames after the warm-up, by runner, interleaved frame by frame."""
    times: dict[str, list[float]] = {name: [] for name in runners}

    def timed(name: str) -> Callable[[PlayedFrame[NamedFrame]], None]:
        def run(played: PlayedFrame[NamedFrame]) -> None:
            runner = runners[name]
            begin = time.perf_counter()
            runner.step(played.pixels, prompted=played.index == 0)
            runner.wait()
            if played.index >= WARM_UP:
                times[name].append(1e3 * (time.perf_counter() - begin))

        return run

    source = (NamedFrame("", frame) for frame in cycle(frames))
    for _ in play(source, PromptPlan([]), [timed(name) for name in runners], WARM_UP + count):
        pass
    return times


def stages(
    runners: Mapping[str, Runner], frames: Sequence[np.ndarray], count: int
) -> dict[str, dict[str, list[float]]]:
    """Milliseconds of each stage of `count` frames after the warm-up, by runner and stage."""
    for index in range(WARM_UP + count):
        for runner in runners.values():
            if runner.clock is None:
                raise RuntimeError("the runner has no clock")
            if index == WARM_UP:
                for times in runner.clock.times.values():
                    times.clear()
            runner.clock.begin()
            runner.step(frames[index % len(frames)], prompted=index == 0)
    return {name: runner.clock.times for name, runner in runners.items() if runner.clock is not None}


def memory(
    make: Callable[[], Runner], frames: Sequence[np.ndarray], used: Callable[[], int], at: Sequence[int]
) -> list[int]:
    """Bytes of the GPU in use at these frames, beyond those in use before the runner was made."""
    gc.collect()
    before = used()
    runner = make()
    found = []
    for index in range(max(at) + 1):
        runner.step(frames[index % len(frames)], prompted=index == 0)
        if index in at:
            runner.wait()
            found.append(used() - before)
    runner.close()
    return found


def used_memory(cuda: Cuda) -> int:
    """Bytes of the GPU in use, by this process and all others; on a GPU that shares the CPU's memory, of both."""
    free, total = cuda.memory()
    return total - free


def sample_frames(width: int, height: int) -> list[np.ndarray]:
    """uint8 (height, width, 3): the drawn clip, enlarged."""
    return [np.array(Image.fromarray(frame).resize((width, height))) for frame in crossing()[0]]


def _click(frame: np.ndarray) -> Prompt:
    height, width = frame.shape[:2]
    return Prompt(points=[(CLICK[0] * width, CLICK[1] * height)], labels=[1])


# --- tables ---


def whole_table(times: Mapping[str, Sequence[float]], references: Sequence[str]) -> str:
    """Quantiles of whole frames, and the medians of the references over each median."""
    medians = {name: float(np.median(values)) for name, values in times.items()}
    head = ["whole frame, ms", *(f"p{quantile}" for quantile in QUANTILES), *(f"{name} over it" for name in references)]
    rows = [
        [name, *_quantiles(values), *(f"{medians[reference] / medians[name]:.2f}" for reference in references)]
        for name, values in times.items()
    ]
    return table(head, rows)


def stage_table(times: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    head = ["", "stage, ms", *(f"p{quantile}" for quantile in QUANTILES)]
    rows = [[name, stage, *_quantiles(values)] for name, parts in times.items() for stage, values in parts.items()]
    return table(head, rows)


def memory_table(found: Mapping[str, Sequence[int]], at: Sequence[int]) -> str:
    head = ["memory of the GPU, MB", *(f"at frame {index}" for index in at)]
    return table(head, [[name, *(f"{value / 1e6:.1f}" for value in values)] for name, values in found.items()])


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _quantiles(values: Sequence[float]) -> list[str]:
    return [f"{value:.2f}" for value in np.percentile(values, QUANTILES)]


# --- what is measured ---


@dataclass(frozen=True)
class Subject:
    """A model: bundles with engines, by precision, and the PyTorch model where it takes part."""

    spec: ModelSpec
    bundles: dict[str, Path]
    model: Callable[[], EfficientTAM] | None

    def makers(self, compiled: Compile) -> dict[str, Callable[[bool], Runner]]:
        """By name, what makes a runner, whether its stages are timed or not."""
        made: dict[str, Callable[[bool], Runner]] = {}
        for precision, path in self.bundles.items():
            made[f"TensorRT {precision}"] = partial(_run_engines, path)
        if self.model is not None:
            made["PyTorch bf16"] = partial(_run_torch, self.model, None)
            made["PyTorch bf16, compiled"] = partial(_run_torch, self.model, compiled)
        return made


def _run_engines(path: Path, staged: bool) -> Runner:
    return EngineRunner(Tracker.load(path, TENSORRT), staged)


def _run_torch(model: Callable[[], EfficientTAM], compiled: Compile | None, staged: bool) -> Runner:
    return TorchRunner(model(), compiled=compiled, staged=staged)


def measure(subject: Subject, cuda: Cuda, options: argparse.Namespace) -> None:
    width, height = options.size
    frames = sample_frames(width, height)
    makers = subject.makers(_torch_compile(options.compile_mode))
    print(f"\n## {subject.spec.name}, frames of {width} x {height}, one object, memory full\n", flush=True)

    with _runners(makers, staged=False) as runners:
        times = whole_frames(runners, frames, options.frames)
    print(f"{options.frames} frames of each, interleaved, after {WARM_UP} of warm-up.\n")
    print(whole_table(times, [name for name in times if name.startswith("PyTorch")]), flush=True)

    with _runners(makers, staged=True) as runners:
        parts = stages(runners, frames, options.frames)
    print(
        "\nThe same in stages. The GPU is waited for after each, which costs time: they add up to more than a frame.\n"
    )
    print(stage_table(parts), flush=True)

    at = (EARLY, options.memory_frames)
    used = partial(used_memory, cuda)
    found = {name: memory(partial(make, False), frames, used, at) for name, make in makers.items()}
    print("\nBeyond what was in use before it was loaded. The PyTorch tracker keeps every frame.\n")
    print(memory_table(found, at), flush=True)


@contextmanager
def _runners(makers: Mapping[str, Callable[[bool], Runner]], staged: bool) -> Iterator[dict[str, Runner]]:
    with ExitStack() as stack:
        made: dict[str, Runner] = {}
        for name, make in makers.items():
            made[name] = make(staged)
            stack.callback(made[name].close)
        yield made


def _torch_compile(mode: str) -> Compile:
    def compile_(function: Any) -> Any:
        import torch

        return torch.compile(function, mode=mode, dynamic=False)

    return compile_


def export_model(name: str, checkpoint: Path | None, folder: Path) -> Subject:
    """fp16 and int8 bundles of a model, calibrated on the drawn clip."""
    from etam_edge.workflows.conversion import Conversion
    from etam_edge.workflows.packages import export_packages

    with export_packages("export"):
        from etam_edge.exporters.export import export_bundle
        from etam_edge.recipe import Recipe
        from etam_edge.spec import GraphSizes

    about = {"name": "seeded" if checkpoint is None else checkpoint.name, "sha256": ""}
    source = export_bundle(load(name, checkpoint), folder / name / "fp32", GraphSizes(), about)
    clips = folder / name / "clips"
    images, masks = crossing()
    for part, arrays in (("JPEGImages", images), ("Annotations", masks[:, 0] + 2 * masks[:, 1].astype(np.uint8))):
        (clips / part / "crossing").mkdir(parents=True)
        for index in range(CALIBRATION_FRAMES):
            Image.fromarray(arrays[index]).save(clips / part / "crossing" / f"{index:05d}.png")
    bundles = {}
    with Conversion(source, find_clips(clips)) as conversion:
        for precision in PRECISIONS:
            bundles[precision] = conversion.write(folder / name / precision, Recipe.default(precision), precision).path
    return Subject(source.manifest.model, bundles, partial(load, name, checkpoint))


def load(name: str, checkpoint: Path | None) -> EfficientTAM:
    """The PyTorch model in evaluation mode, on the CPU, with the checkpoint's weights or seeded ones."""
    import torch

    from etam_edge.exporters.checkpoints import load_model
    from etam_edge.model import EfficientTAM

    if checkpoint is not None:
        return load_model(find_spec(name), checkpoint)
    model = EfficientTAM(find_spec(name)).eval()
    shapes = {key: {"shape": list(value.shape)} for key, value in model.state_dict().items()}
    weights = seeded_weights().seeded_state_dict(shapes, SEED)
    model.load_state_dict({key: torch.from_numpy(value) for key, value in weights.items()})
    return model


def take_bundles(paths: Sequence[Path], with_torch: bool, folder: Path) -> list[Subject]:
    """Copies of bundles, those of one model together.

    Raises:
        InputError: two of them are of the same model and precision.
    """
    subjects: dict[str, Subject] = {}
    for path in paths:
        bundle = Bundle.load(path)
        spec, precision = bundle.manifest.model, bundle.manifest.precision
        model = partial(load, spec.name, None) if with_torch else None
        subject = subjects.setdefault(spec.name, Subject(spec, {}, model))
        if precision in subject.bundles:
            raise InputError(f"two bundles of {spec.name} are {precision}: {path} is the second; leave one out")
        subject.bundles[precision] = bundle.copy_to(folder / spec.name / precision).path
    return list(subjects.values())


def build(path: Path) -> None:
    """Engines, in a process of its own: TensorRT's builder keeps memory.

    Raises:
        EtamError: the command failed; its own output gives the reason.
    """
    command = [sys.executable, "-m", "etam_edge", "build", str(path), "--max-objects", "1", "--overwrite"]
    if subprocess.run(command, stdout=sys.stderr, check=False).returncode:
        raise EtamError(f"engines of {path.name} could not be built; the message of etam-edge build is above")


def check_torch() -> None:
    """
    Raises:
        RuntimeUnavailableError: torch is missing or has no GPU.
    """
    try:
        import torch
    except ImportError as error:
        raise RuntimeUnavailableError("torch is not installed; give bundles with --bundle, and --no-torch") from error
    if not torch.cuda.is_available():
        raise RuntimeUnavailableError(
            f"torch {torch.__version__} finds no GPU; install a torch with CUDA, or measure without it: --no-torch"
        )
    # As the reference sets it where the GPU has it.
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True


def driver_version() -> str:
    """Of the NVIDIA driver, where nvidia-smi says it."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        output = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return output.splitlines()[0].strip() if output.strip() else "unknown"


def versions(cuda: Cuda, trt: Any, with_torch: bool) -> str:
    gpu = cuda.gpu
    rows = [
        ["GPU", f"{gpu.name}, compute capability {'.'.join(map(str, gpu.compute_capability))}"],
        ["driver", driver_version()],
        ["TensorRT", str(trt.__version__)],
        ["CUDA package", f"{cuda.name}, {'with' if cuda.can_capture else 'without'} recorded calls (CUDA graphs)"],
        ["Python", f"{platform.python_version()}, {platform.machine()}"],
    ]
    if with_torch:
        import torch

        rows.append(["torch", f"{torch.__version__}, CUDA {torch.version.cuda}"])
    return table(["", ""], rows)


def frame_size(text: str) -> tuple[int, int]:
    """WIDTHxHEIGHT to (width, height).

    Raises:
        ValueError: it is not of that form.
    """
    width, height = (int(part) for part in text.split("x"))
    if width < 1 or height < 1:
        raise ValueError(text)
    return width, height


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"{' and '.join(MODELS)} without it")
    parser.add_argument("--checkpoint", type=Path, help="of the one MODEL that is named; seeded weights without it")
    parser.add_argument("--bundle", type=Path, action="append", default=[], help="measure this; can be repeated")
    parser.add_argument("--frames", type=int, default=500, help="that are counted, of each")
    parser.add_argument("--memory-frames", type=int, default=2000, help="after which memory is read again")
    parser.add_argument("--size", type=frame_size, default=(1280, 720), help="WIDTHxHEIGHT of a frame")
    parser.add_argument(
        "--compile-mode", default="max-autotune", help="torch.compile's; the reference's is the default"
    )
    parser.add_argument("--no-torch", action="store_true", help="leave out the PyTorch model")
    options = parser.parse_args(arguments)
    if options.bundle and options.models:
        parser.error("name models or bundles, not both")
    if options.checkpoint is not None and len(options.models) != 1:
        parser.error("--checkpoint is of one MODEL: name it")
    if options.frames < 1:
        parser.error("--frames must be 1 or more")
    if options.memory_frames <= EARLY:
        parser.error(f"--memory-frames is compared with frame {EARLY}; give more")
    try:
        cuda, trt = open_cuda(), import_tensorrt()
        if not options.no_torch:
            check_torch()
        print(versions(cuda, trt, not options.no_torch), flush=True)
        with tempfile.TemporaryDirectory() as folder:
            for subject in _subjects(options, Path(folder)):
                for path in subject.bundles.values():
                    build(path)
                measure(subject, cuda, options)
    except EtamError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _subjects(options: argparse.Namespace, folder: Path) -> Iterator[Subject]:
    if options.bundle:
        yield from take_bundles(options.bundle, not options.no_torch, folder)
        return
    for name in options.models or MODELS:
        subject = export_model(name, options.checkpoint, folder)
        yield Subject(subject.spec, subject.bundles, None) if options.no_torch else subject


if __name__ == "__main__":
    sys.exit(main())
