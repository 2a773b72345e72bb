"""What every output has in common: the protocol, files that appear when they are complete, and sentences of errors."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Protocol

from etam_edge.atomic import AtomicFile, check_parent, is_replaceable, make_directories, remove_empty
from etam_edge.errors import InputError
from etam_edge.media.sources import NamedFrame
from etam_edge.runtimes.types import FrameResult

ADVICE = {
    errno.ENOSPC: "free space there",
    errno.EDQUOT: "free space there",
    errno.EPIPE: "the program that read it has ended",
}


class Output(Protocol):
    """Receives the result of every frame.

    Attributes:
        path: file or folder that is written.
    """

    path: Path

    def write(self, frame: NamedFrame, result: FrameResult) -> None:
        """Write one frame.

        Raises:
            InputError: it cannot be written.
        """

    def close(self) -> None:
        """Complete the output with the frames written so far.

        Raises:
            InputError: some of them could not be written; an incomplete file is removed.
        """

    def discard(self) -> None:
        """Remove what is incomplete."""


def cannot_write(path: Path, error: Exception) -> InputError:
    """The error for an output that failed, with its cause and what to do."""
    number = getattr(error, "errno", None) or 0
    cause = getattr(error, "strerror", None) or error
    return InputError(f"{path} could not be written ({cause}); {ADVICE.get(number, 'name another place')}")


def check_file(path: Path, parameter: str, overwrite: bool) -> None:
    """Refuse a file that `PendingFile` could not write. Nothing is created.

    Raises:
        InputError: `path` is a folder, a device or a file that is not to be replaced, or it cannot be written.
    """
    try:
        if path.is_dir():
            raise IsADirectoryError
        if not is_replaceable(path):
            raise OSError(errno.EINVAL, "not a regular file")
        if path.exists() and not overwrite:
            raise FileExistsError
        check_parent(path)
    except OSError as error:
        raise _refusal(path, parameter, error) from error


class PendingFile:
    """A file that appears when it is complete, in a folder that is made for it.

    Args:
        path: of the file.
        parameter: that named it, for errors.
        overwrite: replace a file that is there.

    Attributes:
        temporary: file to write to until `commit` or `discard`.

    Raises:
        InputError: as of `check_file`.
    """

    def __init__(self, path: Path, parameter: str, overwrite: bool) -> None:
        self._path = path
        self._made: list[Path] = []
        try:
            self._made = make_directories(path.parent)
            self._file = AtomicFile(path, overwrite)
        except OSError as error:
            remove_empty(self._made)
            raise _refusal(path, parameter, error) from error
        self.temporary = self._file.temporary

    def commit(self) -> None:
        """
        Raises:
            InputError: the file cannot be flushed or renamed and is removed; or another process wrote it meanwhile,
                and this one stays under another name, which the error states.
        """
        try:
            self._file.commit()
        except FileExistsError:
            place = self._keep_beside()
            raise InputError(
                f"{self._path} was written by another process meanwhile and is not replaced; what this one wrote is in "
                f"{place}"
            ) from None
        except OSError as error:
            remove_empty(self._made)
            raise cannot_write(self._path, error) from error

    def discard(self) -> None:
        """Remove the temporary file, and folders that were made for it."""
        self._file.discard()
        remove_empty(self._made)

    def _keep_beside(self) -> Path:
        try:
            return self._file.keep_beside()
        except OSError as error:
            self.discard()
            raise cannot_write(self._path, error) from error


def _refusal(path: Path, parameter: str, error: OSError) -> InputError:
    if isinstance(error, FileExistsError):
        return InputError(
            f"`{parameter}={path}` is there already; add `overwrite=True` to replace it, or name another file"
        )
    if isinstance(error, IsADirectoryError):
        return InputError(f"`{parameter}={path}` is a folder; name a file in it")
    return InputError(f"`{parameter}={path}` cannot be written ({error.strerror}); name another place")
