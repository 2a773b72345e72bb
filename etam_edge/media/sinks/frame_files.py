"""A folder that receives one file for each frame, beside files of others."""

from __future__ import annotations

from pathlib import Path

from etam_edge.atomic import AtomicFile, check_parent, make_directories, remove_empty, remove_left_over
from etam_edge.errors import InputError
from etam_edge.media.sinks.base import cannot_write


class FrameFiles:
    """Writes files NAME.SUFFIX into a folder, each complete as soon as it is there.

    Args:
        path: of the folder, which is made where it does not exist. It may hold other files, for example the images.
        suffix: of the files.
        parameter: that named the folder, for errors.
        overwrite: replace files of the same names. Without it, the folder must hold no file with this suffix.

    Raises:
        InputError: the folder cannot be written, or holds such files.
    """

    def __init__(self, path: Path, suffix: str, parameter: str, overwrite: bool) -> None:
        self.path = path
        self._suffix, self._parameter, self._overwrite = suffix, parameter, overwrite
        check_frame_files(path, suffix, parameter, overwrite)
        self._made: list[Path] = []
        try:
            self._made = make_directories(path)
            remove_left_over(path)
        except OSError as error:
            remove_empty(self._made)
            raise _refusal(path, parameter, error) from error

    def write(self, name: str, content: bytes) -> None:
        """
        Raises:
            InputError: the file cannot be written.
        """
        target = self.path / f"{name}{self._suffix}"
        try:
            pending = AtomicFile(target, self._overwrite, tidy=False)
            try:
                pending.temporary.write_bytes(content)
                pending.commit(sync=False)
            finally:
                pending.discard()
        except FileExistsError:
            raise InputError(f"{target} is there already; name another `{self._parameter}`") from None
        except OSError as error:
            raise cannot_write(target, error) from error

    def discard(self) -> None:
        """Remove the folder if it was made and is empty; complete files are kept."""
        remove_empty(self._made)


def check_frame_files(path: Path, suffix: str, parameter: str, overwrite: bool) -> None:
    """Refuse a folder that `FrameFiles` would refuse. Nothing is created.

    Raises:
        InputError: as of `FrameFiles`.
    """
    try:
        if not path.is_dir():
            if path.exists():
                raise NotADirectoryError(0, "it is a file")
            check_parent(path)
            return
        check_parent(path / f"name{suffix}")
        found = next((file for file in sorted(path.iterdir()) if file.suffix == suffix), None)
    except OSError as error:
        raise _refusal(path, parameter, error) from error
    if found is not None and not overwrite:
        raise InputError(
            f"`{parameter}={path}` holds {found.name}; add `overwrite=True` to replace files of the same names, or "
            "name another folder"
        )


def _refusal(path: Path, parameter: str, error: OSError) -> InputError:
    return InputError(f"`{parameter}={path}` cannot be written ({error.strerror}); name another folder")
