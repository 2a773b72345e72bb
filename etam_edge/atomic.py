"""Folders that are written beside their place and renamed: what is there is whole, or nothing is there."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from etam_edge.errors import InputError


def check_target(path: Path, overwrite: bool, marker: str, what: str) -> None:
    """Refuse a place where a folder must not be written, before any work is done.

    Args:
        path: of the folder to write.
        overwrite: whether one of its own kind may be replaced.
        marker: name of the file that every folder of this kind holds.
        what: the kind, in a word.

    Raises:
        InputError: something is there already, or the parent folder cannot be written.
    """
    if path.is_dir():
        if (path / marker).is_file():
            if not overwrite:
                raise InputError(
                    f"{path} already holds a {what}; add --overwrite to replace it, or name another --output"
                )
        elif any(path.iterdir()):
            raise InputError(f"{path} is a folder with other files in it; name another --output")
    elif path.exists():
        raise InputError(f"{path} is a file; name a folder for --output")
    try:
        path.absolute().parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.absolute().parent):
            pass
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}); name another --output") from error


@contextmanager
def writing(path: Path, overwrite: bool, marker: str, what: str) -> Iterator[Path]:
    """A folder to fill, which takes its place at `path` when the block ends without an error.

    Raises:
        InputError: the target is taken, or the disk is full or cannot be written.
    """
    check_target(path, overwrite, marker, what)
    path = path.absolute()
    draft = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent))
    try:
        yield draft
        draft.chmod(0o755)
        _take_place(draft, path)
    except OSError as error:
        raise InputError(
            f"{path} could not be written ({error.strerror or error}); free space or name another --output"
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _take_place(draft: Path, path: Path) -> None:
    if not path.exists():
        draft.rename(path)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".old", dir=path.parent)) / path.name
    path.rename(old)
    try:
        draft.rename(path)
    except OSError:
        old.rename(path)
        raise
    finally:
        shutil.rmtree(old.parent, ignore_errors=True)
