"""The reference: a checkout of yformer/EfficientTAM, run as it comes, in PyTorch eager mode, float32, on the CPU."""

from __future__ import annotations

import importlib
import os
import shutil
import sys
import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.scene import Scene
from etam_edge.cpu import cpu_kind
from etam_edge.errors import InputError, RuntimeUnavailableError

PACKAGE = "efficient_track_anything"
BUILDER = f"{PACKAGE}.build_efficienttam"
WHERE = "git clone https://github.com/yformer/EfficientTAM"
NEEDS = "pip install torchvision hydra-core iopath tqdm"


def find_reference(folder: Path | None) -> Any:
    """The reference's own module of builders.

    Args:
        folder: of the checkout.

    Raises:
        InputError: no folder was named, or it is no checkout.
        RuntimeUnavailableError: a package that the reference imports is missing.
    """
    if folder is None:
        raise InputError(f"the reference is not part of this project; fetch it with `{WHERE}` and add --reference DIR")
    if not (folder / PACKAGE / "build_efficienttam.py").is_file():
        raise InputError(
            f"{folder} is no checkout of the reference: it has no {PACKAGE}/build_efficienttam.py; "
            f"fetch it with `{WHERE}` and name that folder with --reference"
        )
    sys.path.insert(0, str(folder.resolve()))
    try:
        return importlib.import_module(BUILDER)
    except ImportError as error:
        raise RuntimeUnavailableError(
            f"the reference in {folder} needs a package that is missing ({error.name}); install it with: {NEEDS}"
        ) from error
    finally:
        sys.path.pop(0)


def build_predictor(builder: Any, name: str, weights: Mapping[str, Any]) -> Any:
    """The reference's video predictor, by its own builder and configuration.

    Args:
        builder: of `find_reference`.
        name: of an official model.
        weights: tensors by parameter name.

    Raises:
        InputError: the reference has no such model, or other parameters.
    """
    # It says on standard output that it compiles nothing; tables go there.
    with redirect_stdout(sys.stderr):
        try:
            predictor = builder.build_efficienttam_video_predictor(
                f"configs/efficienttam/{name}.yaml",
                device="cpu",
                vos_optimized=False,
                # The builder sets this itself where there is no GPU.
                hydra_overrides_extra=["++model.compile_image_encoder=False"],
            )
        except Exception as error:
            raise InputError(f"the reference cannot build {name}: {error}; name another with --models") from error
    try:
        predictor.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise InputError(
            f"the reference's {name} has other parameters than this project's ({str(error).splitlines()[0]}); "
            "use the checkout that this project was compared with"
        ) from error
    return predictor


def need_compiler() -> None:
    """
    Raises:
        RuntimeUnavailableError: there is no C++ compiler, which `torch.compile` calls on a CPU.
    """
    if not any(shutil.which(name) for name in (os.environ.get("CXX", "c++"), "g++", "clang++")):
        raise RuntimeUnavailableError("torch.compile needs a C++ compiler; install g++, or set CXX")


def need_bfloat16() -> None:
    """
    Raises:
        RuntimeUnavailableError: this CPU has no bfloat16 products: autocast would convert back and forth.
    """
    kind = cpu_kind()
    if not {"BF16", "bf16", "AMX"} & set(kind.split()):
        raise RuntimeUnavailableError(
            f"this CPU ({kind}) has no bfloat16 products; name it with --candidates to measure it all the same"
        )


def compile_parts(predictor: Any) -> None:
    """Put the parts of a predictor that compute under `torch.compile`: those that its own option for videos compiles.

    Memory grows during the first frames, so that memory attention is compiled for changing lengths.
    """
    import torch

    for name, dynamic in (
        ("image_encoder", False),
        ("memory_encoder", False),
        ("memory_attention", True),
        ("sam_prompt_encoder", False),
        ("sam_mask_decoder", False),
    ):
        part = getattr(predictor, name)
        part.forward = torch.compile(part.forward, dynamic=dynamic)


class ReferenceRunner:
    """One step of the predictor's `propagate_in_video` is one frame.

    The reference's favour: its `init_state` reads, resizes and normalises all frames beforehand, so that a step begins
    with a normalised float32 tensor, while this project's frames begin as uint8 pixels. A step ends with the mask, bool
    (S, S). Offloading is left off, as by default. Its predictor keeps memory in bfloat16, so equal masks are not equal
    to the last bit.

    Args:
        predictor: of `build_predictor`.
        scene: what it sees.
        frames: of the stream.
        compiled: run the image encoder, memory attention, the mask decoder and the memory encoder under
            `torch.compile`, with static shapes where the reference's own option has them.
        bfloat16: run under bfloat16 autocast, which is the reference's own default on GPUs.

    Attributes:
        masks: of the frame just tracked, bool (S, S).
    """

    def __init__(
        self, predictor: Any, scene: Scene, frames: int, compiled: bool = False, bfloat16: bool = False
    ) -> None:
        self._bfloat16 = bfloat16
        if compiled:
            compile_parts(predictor)
        self._state = predictor.init_state(str(scene.folder))
        images = self._state["images"]
        # Views of the same tensors: a long stream would not fit into memory.
        self._state["images"] = [images[index % len(images)] for index in range(frames)]
        self._state["num_frames"] = frames
        # Wherever it answers, it warns of its extension, which fills holes on a GPU only.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with self._autocast():
                predictor.add_new_points_or_box(
                    self._state, frame_idx=0, obj_id=1, points=[list(scene.click)], labels=[1]
                )
        self._frames = predictor.propagate_in_video(self._state)
        self._index = -1
        self.masks: np.ndarray | None = None

    def step(self, index: int) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with self._autocast():
                self._index, _, masks = next(self._frames)
        if self._index != index:
            raise RuntimeError(f"the reference tracked frame {self._index}, not {index}")
        self.masks = (masks[0, 0] > 0).numpy()

    def _autocast(self) -> AbstractContextManager[object]:
        import torch

        return torch.autocast("cpu", dtype=torch.bfloat16, enabled=self._bfloat16)

    def logits(self) -> np.ndarray:
        kept = self._state["output_dict_per_obj"][0]
        where = "non_cond_frame_outputs" if self._index in kept["non_cond_frame_outputs"] else "cond_frame_outputs"
        return kept[where][self._index]["pred_masks"][0, 0].float().numpy()
