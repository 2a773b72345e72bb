"""Atomic writes: files and directories are written under a temporary name beside the target, then renamed.

A reader sees the previous content or the complete new one, never a part of it. Temporary names are unique and created
exclusively, so two processes that write the same target do not mix their data; contents are flushed to the disk before
the rename, so the guarantee also holds after a power failure.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from etam_edge.errors import InputError

_DESCRIPTOR = re.compile(r"/(?:dev|proc/self)/fd/(\d+)")
_STANDARD_STREAMS = {"/dev/stdout": 1, "/dev/stderr": 2}
_MAX_STEM = 40
"""Characters of the target's name in the temporary one, which must not exceed the file system's limit."""
_ATTEMPTS = 100


@contextmanager
def atomic_file(path: str | os.PathLike[str], sync: bool = True) -> Iterator[IO[bytes]]:
    """A binary file that replaces `path` when the block ends without an error; otherwise `path` is unchanged.

    A symbolic link stays a link: the file it points to is replaced. Devices, pipes and open descriptors such as
    /dev/stdout are written to directly, because they cannot be replaced.

    Args:
        path: file to write; its directory must exist.
        sync: flush the file and its directory to the disk before returning. Without it, the file may be empty or
            incomplete after a power failure.

    Raises:
        OSError: the file cannot be written. Callers translate it into an error that says what to do.
    """
    stream = open_stream(Path(path))
    if stream is not None:
        with stream:
            yield stream
        return
    pending = AtomicFile(path)
    try:
        with open(pending.temporary, "wb") as file:
            yield file
        pending.commit(sync)
    finally:
        pending.discard()


def is_replaceable(path: str | os.PathLike[str]) -> bool:
    """Whether `path` is a regular file or does not exist: a device, pipe, directory or open descriptor is not."""
    path = Path(path)
    if _descriptor(path) is not None:
        return False
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return True


def open_stream(path: Path) -> IO[bytes] | None:
    """The device, pipe or open descriptor at `path`, opened for writing; None for regular files and unused paths.

    Raises:
        OSError: it cannot be opened.
    """
    descriptor = _descriptor(path)
    if descriptor is not None:
        # A duplicate shares the position in a redirected file with the original.
        return os.fdopen(os.dup(descriptor), "wb")
    return None if path.is_dir() or is_replaceable(path) else open(path, "wb")


class AtomicFile:
    """A temporary file that replaces `path` on `commit`, for writers that open files by name.

    The temporary file exists from the start; its name ends in the suffix of `path`, from which OpenCV and others infer
    the format.

    Args:
        path: regular file to write; its directory must exist.

    Attributes:
        path: as given.
        temporary: file to write to until `commit` or `discard`.

    Raises:
        OSError: the directory cannot be written, or `path` is not a regular file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if self.path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(self.path))
        if not is_replaceable(self.path):
            raise OSError(errno.EINVAL, "not a regular file", str(self.path))
        # Renaming over a symbolic link would replace the link itself.
        self._target = Path(os.path.realpath(self.path)) if self.path.is_symlink() else self.path
        self.temporary = _create_beside(self._target)

    def commit(self, sync: bool = True) -> None:
        """Rename the temporary file to `path`.

        Args:
            sync: flush the file and its directory to the disk.

        Raises:
            OSError: the file cannot be flushed or renamed; it is removed, and `path` is unchanged.
        """
        try:
            if sync:
                _sync(self.temporary)
            # A file that is replaced keeps its permissions.
            with suppress(OSError):
                os.chmod(self.temporary, stat.S_IMODE(self._target.stat().st_mode))
            os.replace(self.temporary, self._target)
        except OSError:
            self.discard()
            raise
        if sync:
            _sync_directory(self._target.parent)

    def discard(self) -> None:
        """Remove the temporary file; `path` is unchanged. Does nothing after `commit`."""
        self.temporary.unlink(missing_ok=True)


def check_target(path: Path, overwrite: bool, marker: str, what: str) -> None:
    """Refuse a directory that `atomic_directory` could not write, before any work is done.

    Args:
        path: directory to write.
        overwrite: whether an existing directory of the same kind may be replaced.
        marker: file name that every directory of this kind contains.
        what: the kind, for error messages, for example "bundle".

    Raises:
        InputError: the path is taken, or its parent directory cannot be written.
    """
    if path.is_dir():
        if (path / marker).is_file():
            if not overwrite:
                raise InputError(
                    f"{path} already holds a {what}; add `overwrite=True` to replace it, or name another `output`"
                )
        elif any(path.iterdir()):
            raise InputError(f"{path} is a folder with other files in it; name another `output`")
    elif os.path.lexists(path):
        raise InputError(f"{path} is a file; name a folder for `output`")
    try:
        path.absolute().parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.absolute().parent):
            pass
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}); name another `output`") from error


@contextmanager
def atomic_directory(path: Path, overwrite: bool, marker: str, what: str) -> Iterator[Path]:
    """A temporary directory that becomes `path` when the block ends without an error; otherwise it is removed.

    Args:
        path, overwrite, marker, what: as of `check_target`.

    Raises:
        InputError: the path is taken, or the disk is full or cannot be written.
    """
    check_target(path, overwrite, marker, what)
    # The target of a link to a directory is replaced, not the link.
    path = Path(os.path.realpath(path))
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name[:_MAX_STEM]}.", suffix=".partial", dir=path.parent))
    try:
        yield temporary
        temporary.chmod(0o755)
        _sync_tree(temporary)
        _replace_directory(temporary, path)
        _sync_directory(path.parent)
    except OSError as error:
        raise InputError(
            f"{path} could not be written ({error.strerror or error}); free space or name another `output`"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _replace_directory(temporary: Path, path: Path) -> None:
    """Directories cannot be renamed over each other: the old one is moved aside, and back where the rename fails."""
    if not path.exists():
        temporary.rename(path)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{path.name[:_MAX_STEM]}.", suffix=".old", dir=path.parent)) / path.name
    path.rename(old)
    try:
        temporary.rename(path)
    except OSError:
        old.rename(path)
        raise
    finally:
        shutil.rmtree(old.parent, ignore_errors=True)


def _descriptor(path: Path) -> int | None:
    """Number of the open descriptor that a path such as /dev/stdout or /dev/fd/3 names, else None.

    The path is examined before links are resolved: /dev/stdout may lead to a regular file, which the shell redirected
    to and must not be replaced.
    """
    name = os.path.abspath(path)
    for _ in range(_ATTEMPTS):
        if name in _STANDARD_STREAMS:
            return _STANDARD_STREAMS[name]
        found = _DESCRIPTOR.fullmatch(name)
        if found:
            return int(found[1])
        if not os.path.islink(name):
            return None
        name = os.path.normpath(os.path.join(os.path.dirname(name), os.readlink(name)))
    return None


def _create_beside(target: Path) -> Path:
    """A new empty file in the directory of `target`, with permissions according to the umask."""
    for _ in range(_ATTEMPTS):
        name = f".{target.stem[:_MAX_STEM]}.{secrets.token_hex(4)}.partial{target.suffix}"
        temporary = target.with_name(name)
        try:
            os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        except FileExistsError:
            continue
        return temporary
    raise FileExistsError(errno.EEXIST, "no unused temporary name", str(target))


def _sync(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_directory(directory: Path) -> None:
    """Flush names to the disk. File systems that cannot do this for a directory say so with an error."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    with suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _sync_tree(directory: Path) -> None:
    for folder, _, names in os.walk(directory):
        for name in names:
            file = Path(folder, name)
            if stat.S_ISREG(file.lstat().st_mode):
                _sync(file)
        _sync_directory(Path(folder))
