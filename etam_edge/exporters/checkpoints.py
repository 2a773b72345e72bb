"""Checkpoints: where the official ones come from, and everything that is checked before a model carries one.

A checkpoint is what the release publishes, a dict whose key `model` holds the state dict, or the bare state dict that
people save; it is read with `weights_only=True`. Safetensors files are read too. Nothing in a file is ever executed.
The weights of `etam_nano` are a file of this package.
"""

from __future__ import annotations

import errno
import math
import re
import stat
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etam_edge.bundle import sha256_of
from etam_edge.errors import CheckpointError
from etam_edge.spec import NANO, OFFICIAL, ModelSpec

if TYPE_CHECKING:
    from torch import Tensor

    from etam_edge.model import EfficientTAM

__all__ = ["KNOWN_SHA256", "REPOSITORY", "cached_checkpoint", "fetch_checkpoint", "load_model", "sha256_of"]

REPOSITORY = "yunyangx/efficient-track-anything"
"""On Hugging Face; it holds one file `<variant>.pt` for each official variant."""
KNOWN_SHA256: dict[str, str] = {
    "efficienttam_s": "2b572be30d9e96ee29c8d785fe157c6b079ede7d56fbc8a3671d4120e63c89cd",
    "efficienttam_ti": "acbb17b28cca1f860acee09c9ecb6efdb732080dc7a85a07292c31813175fa7d",
    "efficienttam_s_512x512": "67b5840012737ed2c94a4cb8787c5c1b27b3a946045d2e602e65ef77230b6085",
    "efficienttam_ti_512x512": "7d4d652a465f0081391050932f45d8a66768ccc99c8ea393ce8a5927e83f3b9b",
}
"""Of the published files, by variant; the others' hashes are not known."""
PACKAGED = Path(__file__).resolve().parent.parent / "weights" / f"{NANO.name}.safetensors"
"""Trained weights of `etam_nano`, half precision (etam_edge/weights/MODEL_CARD.md)."""
ANSWER_TIMEOUT = 5.0
"""Seconds that the hub has for its first answer."""
FAMILIES = {(384, 12): "an EfficientTAM-S model", (192, 12): "an EfficientTAM-Ti model"}
"""By ViT width and depth."""
NAMED = 3
"""How many tensors an error names before it only counts them."""

_DISK_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
_ZIP = b"PK"
_PICKLE = b"\x80"
_LFS_POINTER = b"version https://git-lfs"
_HOW_TO_SAVE = "save the weights alone: torch.save({'model': model.state_dict()}, FILE)"
_TEXT = frozenset(b"\t\n\f\r") | frozenset(range(32, 127))


def fetch_checkpoint(variant: str) -> Path:
    """The checkpoint of a model: the package's own, or an official one, downloaded where the hub's cache lacks it.

    Raises:
        CheckpointError: the model has no published checkpoint, the hub cannot be reached or has no such file, it
            cannot be stored, huggingface_hub is not installed, or the file is not the one that was published.
    """
    if variant == NANO.name:
        if not PACKAGED.exists():
            raise CheckpointError(f"the weights of {NANO.name} are missing at {PACKAGED}; install etam-edge again")
        return PACKAGED
    if variant not in OFFICIAL:
        raise CheckpointError(
            f"no checkpoint of '{variant}' is published; pass --checkpoint FILE, or take one of {', '.join(OFFICIAL)}"
        )
    path = cached_checkpoint(variant) or _download(variant)
    expected = KNOWN_SHA256.get(variant)
    found = sha256_of(path) if expected else None
    if found != expected:
        # The cache's own entry is a link: with the file behind it gone, the hub's client downloads it again.
        raise CheckpointError(
            f"{path.resolve()} is not the published checkpoint of {variant}: its sha256 is {found}, "
            f"expected {expected}; delete this file and run the command again to download it, "
            "or pass a file that you trust with --checkpoint"
        )
    return path


def cached_checkpoint(variant: str) -> Path | None:
    """The checkpoint of a model on this machine, in the package or the hub's cache, or None.

    Never touches the network, never reads the file.
    """
    if variant == NANO.name:
        return PACKAGED if PACKAGED.exists() else None
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return None
    try:
        path = try_to_load_from_cache(REPOSITORY, _file_name(variant))
    except OSError:
        return None
    return Path(path) if isinstance(path, str) else None


def load_model(spec: ModelSpec, path: Path) -> EfficientTAM:
    """The model of a checkpoint, float32, in evaluation mode, on the CPU.

    Variants of one size (ti, ti_512x512, ti_1, ti_2) have the same names and shapes and are told apart only where the
    file's hash is known.

    Raises:
        CheckpointError: the file is missing, damaged, no checkpoint, or one of another model; or it holds a tensor
            that is not finite.
    """
    from etam_edge.model import EfficientTAM

    path = Path(path)
    _check_file(path)
    _check_hash(spec, path)
    tensors = _state_dict(_read(path), path)
    _check_family(spec, tensors, path)
    model = EfficientTAM(spec)
    _check_fit(spec, model.state_dict(), tensors, path)
    # Smallest and largest value: one pass, no copy, and NaN wins.
    broken = [name for name, tensor in tensors.items() if not all(map(math.isfinite, map(float, tensor.aminmax())))]
    if broken:
        raise CheckpointError(
            f"{path} is damaged: {_count(broken, 'tensor')} with NaN or infinite values ({_some(broken)}); "
            "download it again, or take the checkpoint of an earlier training step"
        )
    model.load_state_dict(tensors, strict=True)
    return model.eval()


def _file_name(variant: str) -> str:
    return f"{variant}.pt"


def _download(variant: str) -> Path:
    file = _file_name(variant)
    elsewhere = _elsewhere(file)
    try:
        from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    except ImportError as error:
        raise CheckpointError(
            f"{file} cannot be downloaded: huggingface_hub cannot be imported ({error}); "
            f'pip install "etam-edge[export]", or {elsewhere}'
        ) from error
    try:
        # One question without retries first: without a network it fails in seconds, where the download itself goes on
        # trying for minutes.
        get_hf_file_metadata(hf_hub_url(REPOSITORY, file), timeout=ANSWER_TIMEOUT)
        return Path(hf_hub_download(REPOSITORY, file, etag_timeout=ANSWER_TIMEOUT, library_name="etam-edge"))
    except Exception as error:  # The client raises the errors of whichever HTTP library its version is built on.
        raise CheckpointError(_why_not_downloaded(file, error)) from error


def _elsewhere(file: str) -> str:
    return f"download {file} of {REPOSITORY} from Hugging Face on another machine and pass --checkpoint FILE"


def _why_not_downloaded(file: str, error: Exception) -> str:
    from huggingface_hub import constants
    from huggingface_hub.utils import OfflineModeIsEnabled, RepositoryNotFoundError

    elsewhere = _elsewhere(file)
    cache = constants.HF_HUB_CACHE
    on_disk = _disk_error(error)
    if on_disk is not None and on_disk.errno in _DISK_FULL:
        return (
            f"{file} does not fit on the disk of {cache} ({on_disk.strerror}); "
            "free space there, or set HF_HUB_CACHE to a folder on a larger disk"
        )
    if on_disk is not None:
        return f"{file} cannot be stored in {cache} ({on_disk.strerror}); set HF_HUB_CACHE to a writable folder"
    if isinstance(error, OfflineModeIsEnabled):
        return f"{file} is not in {cache}, and HF_HUB_OFFLINE forbids to download it; unset it, or {elsewhere}"
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, RepositoryNotFoundError) or status in (401, 403):
        return f"the hub does not give out {REPOSITORY} (HTTP {status}); log in with 'hf auth login', or {elsewhere}"
    if status == 404:
        return f"{REPOSITORY} on Hugging Face has no file {file}; pass one that you have with --checkpoint FILE"
    if status is not None:
        return f"the hub failed to give out {file} (HTTP {status}); try again later, or {elsewhere}"
    return f"{file} could not be downloaded ({_reason(error)}); check the network and try again, or {elsewhere}"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and those behind it, the first cause last."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__


def _disk_error(error: BaseException) -> OSError | None:
    """What the disk refused, where that is behind an error: it carries a file's name, or says that the disk is full."""
    for cause in _causes(error):
        if isinstance(cause, OSError) and cause.errno and (cause.filename is not None or cause.errno in _DISK_FULL):
            return cause
    return None


def _reason(error: BaseException) -> str:
    """What the system said first, as "Connection refused"; else the error's first line, at most 200 characters."""
    said = [cause.strerror for cause in _causes(error) if isinstance(cause, OSError) and cause.strerror]
    lines = (said[-1] if said else str(error)).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def _check_file(path: Path) -> None:
    """Refuse what is plainly no PyTorch file, each kind by name, before torch reads it.

    Raises:
        CheckpointError
    """
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise CheckpointError(f"{path} is a folder; name the checkpoint file in it")
        if not stat.S_ISREG(mode):
            raise CheckpointError(f"{path} is not a regular file; save the checkpoint to one")
        with open(path, "rb") as file:
            head = file.read(512)
    except FileNotFoundError:
        raise CheckpointError(f"there is no checkpoint at {path}; check the path") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}); check its permissions") from error
    if not head:
        raise CheckpointError(f"{path} is empty; download or copy it again")
    if head.startswith(_ZIP):
        _check_archive(path)
    elif not head.startswith(_PICKLE) and not _is_safetensors(head):
        raise CheckpointError(f"{path} is no PyTorch checkpoint: {_what_it_is(head)}")


def _is_safetensors(head: bytes) -> bool:
    """Eight bytes of length, then a JSON object."""
    return head[8:10] == b'{"'


def _what_it_is(head: bytes) -> str:
    if head.startswith(_LFS_POINTER):
        return "it is a git-LFS pointer to the weights; run 'git lfs pull' in its clone, or download the file itself"
    if head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"<":
        return "it is a web page; download the file itself, not the page that shows it"
    if set(head) <= _TEXT:
        return "it is a text file; download or copy the checkpoint again"
    return "its format is unknown; take the .pt file that was published"


def _check_archive(path: Path) -> None:
    """Hold a zip archive, which is what torch writes, to its checksums: torch itself reads flipped bits unnoticed."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except zipfile.BadZipFile:
        raise CheckpointError(
            f"{path} is cut short or damaged ({path.stat().st_size} bytes, the archive's end is missing); "
            "download or copy it again"
        ) from None
    except (OSError, EOFError, NotImplementedError, RuntimeError) as error:
        raise CheckpointError(f"{path} is damaged ({_reason(error)}); download or copy it again") from error
    if damaged is not None:
        raise CheckpointError(f"{path} is damaged: {damaged} fails its checksum; download or copy it again")


def _check_hash(spec: ModelSpec, path: Path) -> None:
    found = sha256_of(path)
    for variant, known in KNOWN_SHA256.items():
        if found == known and variant != spec.name:
            raise CheckpointError(
                f"{path} is the published checkpoint of {variant} (by its sha256), not of {spec.name}; "
                f"use --model {variant}, or the checkpoint of {spec.name}"
            )


def _read(path: Path) -> Any:
    import pickle

    import torch

    with open(path, "rb") as file:
        head = file.read(16)
    if _is_safetensors(head):
        return _read_safetensors(path)
    try:
        with warnings.catch_warnings():
            # About other kinds of files, which the errors below name.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        refused = re.search(r"GLOBAL ([\w.]+\w)", str(error))
        what = f"a Python object of {refused[1]}" if refused else "a pickle that torch did not write"
        raise CheckpointError(
            f"{path} holds {what} and is not opened, because such a file can run code; {_HOW_TO_SAVE}"
        ) from error
    except Exception as error:  # What torch raises on arbitrary bytes is not limited to any kinds.
        raise CheckpointError(
            f"{path} is damaged or no checkpoint: PyTorch cannot read it ({_reason(error)}); download or copy it again"
        ) from error


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors; half precision, which only stores them smaller, becomes float32."""
    import torch

    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise CheckpointError(
            f"{path} is a safetensors file and safetensors cannot be imported ({error}); "
            'install it with: pip install "etam-edge[export]"'
        ) from error
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged ({_reason(error)}); download or copy it again") from error
    narrow = (torch.float16, torch.bfloat16)
    return {name: tensor.float() if tensor.dtype in narrow else tensor for name, tensor in tensors.items()}


def _state_dict(contents: Any, path: Path) -> dict[str, Tensor]:
    """The tensors by name: under the key `model`, or the contents themselves."""
    from torch import Tensor

    if not isinstance(contents, dict):
        raise CheckpointError(f"{path} holds a {type(contents).__name__}; a checkpoint is a dict with the key 'model'")
    tensors = contents.get("model", contents)
    if not isinstance(tensors, dict):
        raise CheckpointError(f"{path} holds a {type(tensors).__name__} under the key 'model', not a state dict")
    if not tensors:
        raise CheckpointError(f"{path} holds no tensors; {_HOW_TO_SAVE}")
    others = [str(name) for name, value in tensors.items() if not isinstance(value, Tensor)]
    if others:
        where = "under the key 'model'" if "model" in contents else "and no key 'model'"
        raise CheckpointError(f"{path} holds entries that are no tensors ({_some(others)}) {where}; {_HOW_TO_SAVE}")
    return {str(name): tensor for name, tensor in tensors.items()}


def _check_family(spec: ModelSpec, tensors: dict[str, Tensor], path: Path) -> None:
    """Name the family of a model of another width, whose tensors would nearly all be of another shape."""
    patches = tensors.get("image_encoder.trunk.patch_embed.proj.weight")
    positions = tensors.get("image_encoder.trunk.pos_embed")
    if patches is None or positions is None or patches.ndim != 4 or positions.ndim != 3:
        return
    width = int(patches.shape[0])
    if width == spec.vit_width or positions.shape[2] != width:
        return
    prefix = "image_encoder.trunk.blocks."
    depth = len({name.removeprefix(prefix).split(".")[0] for name in tensors if name.startswith(prefix)})
    family = FAMILIES.get((width, depth), "another model")
    same = [
        name
        for name, other in OFFICIAL.items()
        if (other.vit_width, other.vit_depth, other.image_size, other.pooling)
        == (width, depth, spec.image_size, spec.pooling)
    ]
    remedy = f"use --model {same[0]}, or another --checkpoint" if same else "use another --checkpoint"
    raise CheckpointError(
        f"{path} holds the weights of {family} (ViT width {width}); "
        f"--model {spec.name} expects ViT width {spec.vit_width}; {remedy}"
    )


def _check_fit(spec: ModelSpec, expected: dict[str, Tensor], found: dict[str, Tensor], path: Path) -> None:
    """Every name, shape and type, all that is wrong in one sentence."""
    missing = [name for name in expected if name not in found]
    unknown = [name for name in found if name not in expected]
    both = [name for name in expected if name in found]
    shapes = [
        f"{name} is {_shape(found[name])}, expected {_shape(expected[name])}"
        for name in both
        if found[name].shape != expected[name].shape
    ]
    types = [
        f"{name} is {_type(found[name])}, expected {_type(expected[name])}"
        for name in both
        if _type(found[name]) != _type(expected[name])
    ]
    wrong = [
        f"{_count(names, 'tensor')} {fault} ({_some(names)})"
        for names, fault in (
            (missing, "missing"),
            (unknown, "unknown"),
            (shapes, "of another shape"),
            (types, "of another type"),
        )
        if names
    ]
    if wrong:
        raise CheckpointError(
            f"{path} does not fit --model {spec.name}: {'; '.join(wrong)}; "
            "use the --model that it was made for, or another --checkpoint"
        )


def _count(names: Sequence[str], noun: str) -> str:
    return f"{len(names)} {noun}{'' if len(names) == 1 else 's'}"


def _some(names: Sequence[str]) -> str:
    """The first few, and how many more."""
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")


def _shape(tensor: Tensor) -> str:
    return "x".join(str(size) for size in tensor.shape) or "a single number"


def _type(tensor: Tensor) -> str:
    """Type name; with the layout or place in front where it holds no plain values, as `meta` tensors."""
    import torch

    kind = str(tensor.dtype).removeprefix("torch.")
    if tensor.layout is not torch.strided:
        return f"{str(tensor.layout).removeprefix('torch.')} {kind}"
    return kind if tensor.device.type == "cpu" else f"{tensor.device.type} {kind}"
