"""Reading of checkpoint files, without executing anything in them."""

from __future__ import annotations

import re
import stat
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etam_edge.errors import CheckpointError, shown
from etam_edge.exporters.checkpoints.causes import reason
from etam_edge.regular_files import open_archive, open_regular

if TYPE_CHECKING:
    from torch import Tensor

MAX_NAMED = 3
"""Tensors that an error names; it counts the others."""
MAX_NAME = 200
MAX_ENTRIES = 100_000
MAX_EXPANSION = 16
"""Bytes that an archive may claim to hold for each of its own: weights are stored as they are, or hardly compressed."""
_ZIP = b"PK"
_PICKLE = b"\x80"
_LFS_POINTER = b"version https://git-lfs"
_HOW_TO_SAVE = "save the weights alone: torch.save({'model': model.state_dict()}, FILE)"
_TEXT = frozenset(b"\t\n\f\r") | frozenset(range(32, 127))


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name: those under the key `model`, or the file's contents themselves.

    Raises:
        CheckpointError: the file is missing, damaged, or not a checkpoint.
    """
    _check_file(path)
    return _state_dict(_read(path), path)


def some(names: Sequence[str]) -> str:
    """The first few names, and the number of the others."""
    more = len(names) - MAX_NAMED
    return ", ".join(map(_name, names[:MAX_NAMED])) + (f" and {more} more" if more > 0 else "")


def _name(text: str) -> str:
    """A name from a file as part of a sentence: one that no terminal shows is quoted."""
    return text if text.isprintable() and len(text) <= MAX_NAME else shown(text)


def _check_file(path: Path) -> None:
    """Refuse a file that cannot be a checkpoint, before torch reads it.

    Raises:
        CheckpointError: the message says what the file is instead.
    """
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise CheckpointError(f"{path} is a folder; give the checkpoint file in it")
        if not stat.S_ISREG(mode):
            raise CheckpointError(f"{path} is not a regular file; save the checkpoint to one")
        with open(path, "rb") as file:
            head = file.read(512)
    except FileNotFoundError:
        raise CheckpointError(f"there is no checkpoint at {path}; check the path") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}); check its permissions") from error
    except ValueError as error:
        raise CheckpointError(f"{shown(str(path))} is no name that a file can have; check the path") from error
    if not head:
        raise CheckpointError(f"{path} is empty; download or copy it again")
    if head.startswith(_ZIP):
        _check_archive(path)
    elif not head.startswith(_PICKLE) and not _is_safetensors(head):
        raise CheckpointError(f"{path} is not a PyTorch checkpoint: {_what_it_is(head)}")


def _is_safetensors(head: bytes) -> bool:
    """Whether a file begins as safetensors do: eight bytes of length, then a JSON object."""
    return head[8:10] == b'{"'


def _what_it_is(head: bytes) -> str:
    """What a file is, by its first bytes, and what to do."""
    if head.startswith(_LFS_POINTER):
        return "it is a git-LFS pointer to the weights; run 'git lfs pull' in its clone, or download the file itself"
    if head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"<":
        return "it is a web page; download the file itself, not the page that shows it"
    if set(head) <= _TEXT:
        return "it is a text file; download or copy the checkpoint again"
    return "its format is unknown; use the .pt file that was published"


def _check_archive(path: Path) -> None:
    """Check the checksums of a zip archive, the format that torch writes: torch itself does not notice flipped bits.

    The sizes that the archive claims are looked at before anything is decompressed: entries that share their bytes, or
    that expand a thousandfold, would keep a reader busy for hours.
    """
    try:
        with open_regular(path) as file, open_archive(file, MAX_ENTRIES) as archive:
            size, entries = path.stat().st_size, archive.infolist()
            claimed = max(sum(entry.file_size for entry in entries), sum(entry.compress_size for entry in entries))
            if claimed > MAX_EXPANSION * size:
                raise CheckpointError(
                    f"{path} has {size} bytes and claims to hold {claimed}, more than weights can be compressed to; "
                    "download or copy it again"
                )
            damaged = archive.testzip()
    except CheckpointError:
        raise
    except zipfile.BadZipFile as error:
        raise CheckpointError(
            f"{path} is cut short or damaged ({path.stat().st_size} bytes, {reason(error)}); download or copy it again"
        ) from None
    except Exception as error:  # On arbitrary bytes: zlib.error, UnicodeDecodeError, struct.error and others.
        raise CheckpointError(f"{path} is damaged ({reason(error)}); download or copy it again") from error
    if damaged is not None:
        raise CheckpointError(f"{path} is damaged: {_name(damaged)} fails its checksum; download or copy it again")


def _read(path: Path) -> Any:
    """The contents of a checkpoint file.

    Raises:
        CheckpointError: it cannot be read, or could run code.
    """
    import pickle

    import torch

    with open(path, "rb") as file:
        head = file.read(16)
    if _is_safetensors(head):
        return _read_safetensors(path)
    try:
        with warnings.catch_warnings():
            # Warnings about other kinds of files; the errors below name them.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        refused = re.search(r"GLOBAL ([\w.]+\w)", str(error))
        what = f"a Python object of {refused[1]}" if refused else "a pickle that torch did not write"
        raise CheckpointError(
            f"{path} holds {what} and is not opened, because such a file can run code; {_HOW_TO_SAVE}"
        ) from error
    except Exception as error:  # On arbitrary bytes torch may raise any exception.
        raise CheckpointError(
            f"{path} is damaged or not a checkpoint: PyTorch cannot read it ({reason(error)}); "
            "download or copy it again"
        ) from error


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Half precision is only for storage and becomes float32."""
    import torch

    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise CheckpointError(
            f"{path} is a safetensors file and safetensors cannot be imported ({error}); "
            'install it with: pip install "etam-edge[export]"'
        ) from error
    try:
        tensors = load_file(path)
    except Exception as error:  # SafetensorError, and KeyError for types that this version does not know.
        raise CheckpointError(f"{path} is damaged ({reason(error)}); download or copy it again") from error
    narrow = (torch.float16, torch.bfloat16)
    return {name: tensor.float() if tensor.dtype in narrow else tensor for name, tensor in tensors.items()}


def _state_dict(contents: Any, path: Path) -> dict[str, Tensor]:
    """The tensors by name, under the key `model` or at the top.

    Raises:
        CheckpointError: the contents are not a state dict.
    """
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
        raise CheckpointError(f"{path} holds entries that are not tensors ({some(others)}) {where}; {_HOW_TO_SAVE}")
    nested = [str(name) for name, value in tensors.items() if value.is_nested]
    if nested:
        raise CheckpointError(f"{path} holds nested tensors ({some(nested)}), which have no shape; {_HOW_TO_SAVE}")
    return {str(name): tensor for name, tensor in tensors.items()}
