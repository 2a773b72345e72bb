"""Folders of results: the newest files under fixed names, those of earlier runs in `history/`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path

from etam_edge import atomic
from etam_edge.errors import InputError
from etam_edge.interrupts import interrupts_held

HISTORY = "history"


def check_report_folder(folder: Path) -> None:
    """Refuse a folder that `write_report` could not write. Nothing is created.

    Raises:
        InputError: it is a file, or cannot be written.
    """
    try:
        atomic.check_parent(folder / HISTORY)
    except OSError as error:
        raise InputError(f"`output={folder}` cannot be written ({error.strerror}); name another folder") from error


def write_report(folder: Path, files: Mapping[str, str | bytes], remark: str = "") -> tuple[Path, ...]:
    """Write files to a folder, all or none. Files of these names that are there move to `history/TIME/`.

    Args:
        folder: is made where it does not exist.
        files: contents by name; the first one's age names the folder of the earlier ones.
        remark: what else to say where they cannot be written.

    Returns:
        paths of the files.

    Raises:
        InputError: they cannot be written; earlier ones are as they were.
    """
    try:
        with atomic.new_directories(folder), atomic.locked_directory(folder):
            _write(folder, files)
    except OSError as error:
        place = error.filename or folder
        raise InputError(
            f"{place} could not be written ({error.strerror}); free space, or name another `output`{remark}"
        ) from error
    return tuple(folder / name for name in files)


def _write(folder: Path, files: Mapping[str, str | bytes]) -> None:
    pending = []
    kept: Path | None = None
    try:
        for name, content in files.items():
            one = atomic.AtomicFile(folder / name)
            pending.append(one)
            one.temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        with interrupts_held():
            kept = _keep_earlier(folder, list(files))
            for one in pending:
                one.commit()
    except BaseException:
        for one in pending:
            one.discard()
        if kept is not None:
            _put_back(kept, folder)
        raise


def _keep_earlier(folder: Path, names: list[str]) -> Path | None:
    """A second name in the history for each file that will be replaced; None where there is none."""
    earlier = [folder / name for name in names if (folder / name).is_file()]
    if not earlier:
        return None
    time = datetime.fromtimestamp(earlier[0].stat().st_mtime, timezone.utc).strftime("%Y-%m-%dT%H-%M-%SZ")
    place = folder / HISTORY / time
    number = 1
    while place.exists():
        number += 1
        place = folder / HISTORY / f"{time}-{number}"
    place.mkdir(parents=True)
    for file in earlier:
        try:
            os.link(file, place / file.name)
        except OSError:
            # A file system without links.
            shutil.copy2(file, place / file.name)
    return place


def _put_back(kept: Path, folder: Path) -> None:
    for file in kept.iterdir():
        place = folder / file.name
        if place.exists() and place.samefile(file):
            # Renaming a file to another of its own names does nothing.
            file.unlink()
        else:
            os.replace(file, place)
    with suppress(OSError):
        kept.rmdir()
        kept.parent.rmdir()
