"""System calls that `etam_edge.atomic` is made of: renaming without replacing, exchanging, locking, flushing."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import functools
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

_AT_FDCWD = -100
_RENAME_NOREPLACE, _RENAME_EXCHANGE = 1, 2
_UNSUPPORTED = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP)


def rename_to_new(source: Path, target: Path) -> None:
    """Rename a file, without replacing anything.

    Raises:
        FileExistsError: there is something at `target`.
        OSError: the file cannot be renamed.
    """
    if _renameat2(source, target, _RENAME_NOREPLACE):
        return
    # A second name fails where one exists; file systems without links (FAT) look first.
    try:
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError:
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from None
        os.rename(source, target)
    else:
        os.unlink(source)


def exchange(first: Path, second: Path) -> bool:
    """Exchange two files or directories in one step; False where the system or the file system cannot.

    Raises:
        OSError: they cannot be exchanged.
    """
    return _renameat2(first, second, _RENAME_EXCHANGE)


def own(descriptor: int, path: Path) -> bool:
    """Lock a file or directory that was just created, until its descriptor is closed or the process ends.

    Returns:
        False where another process took it for left over and removed it; the descriptor is closed then.
    """
    if try_lock_descriptor(descriptor):
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return True
    os.close(descriptor)
    return False


def lock(descriptor: int) -> None:
    """Wait for the lock of a file or directory. Where the file system has no locks, this does nothing."""
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX)


def try_lock(path: Path) -> int | None:
    """A descriptor that holds the lock of a file or directory; None if another process has it or there is no lock."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def try_lock_descriptor(descriptor: int) -> bool:
    """Lock an open file; False if another process has the lock. Without locks in the file system: True."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def is_link(path: str | os.PathLike[str]) -> bool:
    """As os.path.islink, also for names that no file can have."""
    try:
        return os.path.islink(path)
    except ValueError:
        return False


def sync(file: Path) -> None:
    """Flush a file to the disk."""
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_directory(directory: Path) -> None:
    """Flush names to the disk. File systems that cannot do this for a directory say so with an error."""
    with suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sync_tree(directory: Path) -> None:
    """Flush all files and names in a directory to the disk."""
    for folder, _, names in os.walk(directory):
        for name in names:
            file = Path(folder, name)
            if stat.S_ISREG(file.lstat().st_mode):
                sync(file)
        sync_directory(Path(folder))


@functools.cache
def _system_call() -> Callable[..., int] | None:
    """renameat2 of the C library (glibc 2.28, Linux), or None."""
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError, TypeError):
        return None
    call.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
    return call


def _renameat2(source: Path, target: Path, flags: int) -> bool:
    """
    Returns:
        False where the system or the file system has no such call.

    Raises:
        OSError: it failed.
    """
    call = _system_call()
    if call is None:
        return False
    if call(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), flags) == 0:
        return True
    number = ctypes.get_errno()
    if number in _UNSUPPORTED:
        return False
    raise OSError(number, os.strerror(number), str(source), None, str(target))
