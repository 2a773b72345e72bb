"""Atomic writes: files and directories are written under a temporary name beside the target, then renamed.

A reader sees the previous content or the complete new one, never a part of it. Temporary names are unique, created
exclusively and locked while their writer lives, so two processes that write the same target do not mix their data, and
what a killed process left is removed by the next one that writes there. Contents are flushed to the disk before the
rename, so the guarantee also holds after a power failure.

What stands at the target is looked at again at the moment of renaming: a file or directory that appeared there
meanwhile is not replaced unless the caller asked for it, and a device, a pipe or a directory of another kind never is.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from etam_edge import filesystem
from etam_edge.errors import InputError

STANDARD_OUTPUT = Path("/dev/stdout")
_DESCRIPTOR = re.compile(r"/(?:dev|proc/self)/fd/(\d+)")
_STANDARD_STREAMS = {str(STANDARD_OUTPUT): 1, "/dev/stderr": 2}
_MAX_STEM = 40
"""Characters of the target's name in the temporary one, which must not exceed the file system's limit."""
_ATTEMPTS = 100
_TOKEN = "[0-9a-f]{8}"
_LEFT_OVER = re.compile(rf"\..*\.{_TOKEN}\.partial(\.[^.]*)?", re.DOTALL)
_SET_ASIDE = re.compile(rf"\..*\.{_TOKEN}\.old", re.DOTALL)


@contextmanager
def atomic_file(path: str | os.PathLike[str], sync: bool = True, overwrite: bool = True) -> Iterator[IO[bytes]]:
    """A binary file that replaces `path` when the block ends without an error; otherwise `path` is unchanged.

    A symbolic link stays a link: the file it points to is replaced. Devices, pipes and open descriptors such as
    /dev/stdout are written to directly, because they cannot be replaced.

    Args:
        path: file to write; its directory must exist.
        sync: flush the file and its directory to the disk before returning. Without it, the file may be empty or
            incomplete after a power failure.
        overwrite: replace a file that is there.

    Raises:
        FileExistsError: `path` is a file, and is not to be replaced.
        OSError: the file cannot be written. Callers translate it into an error that says what to do.
    """
    stream = open_stream(Path(path))
    if stream is not None:
        with stream:
            yield stream
        return
    pending = AtomicFile(path, overwrite)
    try:
        with open(pending.temporary, "wb") as file:
            yield file
        pending.commit(sync)
    finally:
        pending.discard()


def is_replaceable(path: str | os.PathLike[str]) -> bool:
    """Whether `path` is a regular file or does not exist: a device, pipe, directory or open descriptor is not."""
    path = Path(path)
    if descriptor_of(path) is not None:
        return False
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (OSError, ValueError):
        return True


def open_stream(path: Path) -> IO[bytes] | None:
    """The device, pipe or open descriptor at `path`, opened for writing; None for regular files and unused paths.

    Raises:
        OSError: it cannot be opened.
    """
    descriptor = descriptor_of(path)
    if descriptor is not None:
        # A duplicate shares the position in a redirected file with the original.
        return os.fdopen(os.dup(descriptor), "wb")
    return None if is_replaceable(path) or path.is_dir() else open(path, "wb")


class AtomicFile:
    """A temporary file that replaces `path` on `commit`, for writers that open files by name.

    The temporary file exists from the start; its name ends in the suffix of `path`, which tells writers the format.

    Args:
        path: regular file to write; its directory must exist.
        overwrite: replace a file that is there.
        tidy: look through the directory for what killed processes left, and remove it. Callers that write many files
            to one directory do it once, with `remove_left_over`.

    Attributes:
        path: as given.
        temporary: file to write to until `commit` or `discard`.

    Raises:
        FileExistsError: `path` is a file, and is not to be replaced.
        OSError: the directory cannot be written, `path` is not a regular file, or its name is not possible.
    """

    def __init__(self, path: str | os.PathLike[str], overwrite: bool = True, tidy: bool = True) -> None:
        self.path = Path(path)
        self._overwrite = overwrite
        _check_name(self.path)
        # Renaming over a symbolic link would replace the link itself.
        self._target = Path(os.path.realpath(self.path)) if self.path.is_symlink() else self.path
        if descriptor_of(self.path) is not None:
            raise OSError(errno.EINVAL, "not a regular file", str(self.path))
        self._check_target()
        if tidy:
            remove_left_over(self._target.parent)
        self.temporary, self._lock = _create_beside(self._target)

    def commit(self, sync: bool = True) -> None:
        """Rename the temporary file to `path`.

        Args:
            sync: flush the file and its directory to the disk.

        Raises:
            FileExistsError: a file has appeared at `path` that is not to be replaced. The temporary file is kept for
                `keep_as` or `discard`.
            OSError: the file cannot be flushed or renamed; it is removed, and `path` is unchanged.
        """
        try:
            if sync:
                os.fsync(self._lock)
            self._check_target()
            # A file that is replaced keeps its permissions.
            with suppress(OSError):
                os.chmod(self.temporary, stat.S_IMODE(self._target.stat().st_mode))
            if self._overwrite:
                os.replace(self.temporary, self._target)
            else:
                filesystem.rename_to_new(self.temporary, self._target)
        except FileExistsError:
            raise
        except OSError:
            self.discard()
            raise
        if sync:
            filesystem.sync_directory(self._target.parent)
        self._close()

    def keep_beside(self) -> Path:
        """Rename the temporary file to an unused name beside `path`: NAME-1.SUFFIX, or the next number that is free.

        Raises:
            OSError: it cannot be renamed.
        """
        for number in range(1, 10_000):
            place = self._target.with_name(f"{self._target.stem}-{number}{self._target.suffix}")
            with suppress(FileExistsError):
                filesystem.rename_to_new(self.temporary, place)
                self._close()
                return place
        raise FileExistsError(errno.EEXIST, "no unused name", str(self._target))

    def discard(self) -> None:
        """Remove the temporary file; `path` is unchanged. Does nothing after `commit`."""
        if self._lock >= 0:
            self.temporary.unlink(missing_ok=True)
            self._close()

    def _check_target(self) -> None:
        try:
            mode = os.stat(self._target).st_mode
        except FileNotFoundError:
            return
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(self.path))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "not a regular file", str(self.path))
        if not self._overwrite:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(self.path))

    def _close(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def check_target(path: Path, overwrite: bool, marker: str, what: str) -> None:
    """Refuse a directory that `atomic_directory` could not write, before any work is done. Nothing is created.

    Args:
        path: directory to write.
        overwrite: whether an existing directory of the same kind may be replaced.
        marker: file name that every directory of this kind contains.
        what: the kind, for error messages, for example "bundle".

    Raises:
        InputError: the path is taken, or its parent directory cannot be written.
    """
    try:
        _check_name(path)
        recover_directory(path)
        _check_taken(path, overwrite, marker, what)
        check_parent(path)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}); name another `output`") from error


def check_parent(path: Path) -> None:
    """Whether something can be created at `path`, whose missing parent directories would be made. Nothing is left.

    Raises:
        OSError: the closest directory that exists cannot be written, or a part of the path is a file.
    """
    _check_name(path)
    parent = path.absolute().parent
    while not os.path.lexists(parent):
        parent = parent.parent
    temporary, lock = _create_beside(parent / path.name)
    temporary.unlink()
    os.close(lock)


@contextmanager
def atomic_directory(path: Path, overwrite: bool, marker: str, what: str) -> Iterator[Path]:
    """A temporary directory that becomes `path` when the block ends without an error; otherwise it is removed.

    Missing parent directories are made, and removed again if the block ends with an error.

    Args:
        path, overwrite, marker, what: as of `check_target`.

    Raises:
        InputError: the path is taken, also by what appeared there while the block ran; or the disk is full or cannot be
            written.
    """
    check_target(path, overwrite, marker, what)
    # The target of a link to a directory is replaced, not the link.
    path = Path(os.path.realpath(path))
    try:
        with new_directories(path.parent):
            remove_left_over(path.parent)
            temporary, lock = _create_directory_beside(path)
            try:
                yield temporary
                temporary.chmod(0o755)
                filesystem.sync_tree(temporary)
                _replace_directory(temporary, path, overwrite, marker, what)
                filesystem.sync_directory(path.parent)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
                os.close(lock)
    except OSError as error:
        raise InputError(
            f"{path} could not be written ({error.strerror or error}); free space or name another `output`"
        ) from error


@contextmanager
def new_directories(path: Path) -> Iterator[None]:
    """Make a directory and its parents; those that were made are removed if the block ends with an error.

    Raises:
        OSError: one of them cannot be made.
    """
    made = make_directories(path)
    try:
        yield
    except BaseException:
        remove_empty(made)
        raise


def make_directories(path: Path) -> list[Path]:
    """Make a directory and its parents where they are missing.

    Returns:
        those that were made, the innermost first, for `remove_empty`.

    Raises:
        OSError: one of them cannot be made.
    """
    missing = []
    while not path.is_dir():
        missing.append(path)
        path = path.parent
    made: list[Path] = []
    try:
        for one in reversed(missing):
            one.mkdir(exist_ok=True)
            made.insert(0, one)
    except OSError:
        remove_empty(made)
        raise
    return made


def remove_empty(directories: list[Path]) -> None:
    """Remove directories that are empty, in this order."""
    for directory in directories:
        with suppress(OSError):
            directory.rmdir()


@contextmanager
def locked_directory(path: Path) -> Iterator[None]:
    """Hold a directory against other processes of this package that change files in it or replace it as a whole.

    Raises:
        OSError: there is no directory at `path`, or it cannot be read.
    """
    while True:
        lock = os.open(path, os.O_RDONLY)
        try:
            filesystem.lock(lock)
            # It may have been replaced while this process waited.
            if os.path.samestat(os.fstat(lock), os.stat(path)):
                yield
                return
        finally:
            os.close(lock)


def recover_directory(path: str | os.PathLike[str]) -> None:
    """Put a directory back that was set aside to be replaced, where the process was killed before the new one stood.

    This happens only on file systems that cannot exchange two directories in one step. Does nothing if there is
    something at `path`, or nothing that was set aside.
    """
    path = Path(path)
    with suppress(OSError, ValueError):
        if os.path.lexists(path):
            return
        for aside in sorted(path.absolute().parent.iterdir()):
            if not _SET_ASIDE.fullmatch(aside.name) or not (aside / path.name).is_dir():
                continue
            lock = filesystem.try_lock(aside)
            if lock is None:
                continue
            try:
                (aside / path.name).rename(path)
                aside.rmdir()
            finally:
                os.close(lock)
            return


def remove_left_over(directory: Path) -> None:
    """Remove temporary files and directories of this package whose process is dead."""
    with suppress(OSError):
        with os.scandir(directory) as found:
            hidden = [directory / entry.name for entry in found if entry.name.startswith(".")]
        for path in hidden:
            if _LEFT_OVER.fullmatch(path.name) or (_SET_ASIDE.fullmatch(path.name) and _is_replaced(path)):
                _remove_if_unlocked(path)


def descriptor_of(path: Path) -> int | None:
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
        if not filesystem.is_link(name):
            return None
        name = os.path.normpath(os.path.join(os.path.dirname(name), os.readlink(name)))
    return None


def _is_replaced(aside: Path) -> bool:
    """Whether what was set aside stands at its place again, old or new."""
    return all((aside.parent / old.name).exists() for old in aside.iterdir())


def _remove_if_unlocked(path: Path) -> None:
    lock = filesystem.try_lock(path)
    if lock is None:
        return
    try:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    finally:
        os.close(lock)


def _check_name(path: Path) -> None:
    """
    Raises:
        OSError: the name is too long or holds a NUL character, or a parent directory cannot be read.
    """
    if "\0" in os.fspath(path):
        raise OSError(errno.EINVAL, "the name holds a NUL character", repr(os.fspath(path)))
    with suppress(FileNotFoundError):
        os.lstat(path)


def _check_taken(path: Path, overwrite: bool, marker: str, what: str) -> None:
    """
    Raises:
        InputError: there is something at `path` that must not be replaced.
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


def _replace_directory(temporary: Path, path: Path, overwrite: bool, marker: str, what: str) -> None:
    """Rename a directory to `path`. What was there is looked at, and left in `temporary` or removed.

    Raises:
        InputError: something has appeared at `path` that must not be replaced.
        OSError: the directory cannot be renamed.
    """
    try:
        # Replaces an empty directory, and nothing else.
        temporary.rename(path)
        return
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
    _check_taken(path, overwrite, marker, what)
    with locked_directory(path):
        if not filesystem.exchange(temporary, path):
            _set_aside_and_replace(temporary, path)
            return
    try:
        _check_taken(temporary, overwrite, marker, what)
    except InputError:
        # Another directory took the place between the two looks.
        filesystem.exchange(temporary, path)
        raise InputError(f"{path} is a folder with other files in it; name another `output`") from None


def _set_aside_and_replace(temporary: Path, path: Path) -> None:
    """In two steps, where a file system cannot exchange directories; see `recover_directory`."""
    aside, lock = _create_directory_beside(path, "old")
    try:
        old = aside / path.name
        path.rename(old)
        try:
            temporary.rename(path)
        except OSError:
            old.rename(path)
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        os.close(lock)


def _create_beside(target: Path) -> tuple[Path, int]:
    """A new empty file in the directory of `target`, with permissions according to the umask, and its lock."""
    for _ in range(_ATTEMPTS):
        temporary = target.with_name(_temporary_name(target.stem, f"partial{target.suffix}"))
        try:
            lock = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
        except FileExistsError:
            continue
        if filesystem.own(lock, temporary):
            return temporary, lock
    raise FileExistsError(errno.EEXIST, "no unused temporary name", str(target))


def _create_directory_beside(target: Path, kind: str = "partial") -> tuple[Path, int]:
    """A new empty directory beside `target`, readable by its owner only, and its lock."""
    for _ in range(_ATTEMPTS):
        temporary = target.with_name(_temporary_name(target.name, kind))
        try:
            temporary.mkdir(0o700)
            lock = os.open(temporary, os.O_RDONLY)
        except (FileExistsError, FileNotFoundError):
            if not target.parent.is_dir():
                raise
            continue
        if filesystem.own(lock, temporary):
            return temporary, lock
    raise FileExistsError(errno.EEXIST, "no unused temporary name", str(target))


def _temporary_name(stem: str, ending: str) -> str:
    return f".{stem[:_MAX_STEM]}.{secrets.token_hex(4)}.{ending}"
