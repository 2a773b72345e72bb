"""Reading of files that users name: paths that are none, pipes that never end and archives that lie are refused.

Opening a FIFO waits for a writer, and a device has no end: what this package reads whole must be a regular file.
"""

from __future__ import annotations

import errno
import json
import os
import stat
import struct
import zipfile
from pathlib import Path
from typing import IO, Any

from etam_edge.errors import InputError, shown

MAX_NAME = 1000
"""Characters of a file's name in a file. Systems take some more, messages about it should not."""
MAX_JSON = 64 << 20
"""Bytes of a JSON file. The largest that this package writes, the prompts of a long clip, have a few million."""
_END_RECORD = struct.Struct("<4s4H2LH")
_END_LOCATOR_64 = struct.Struct("<4sLQL")
_END_RECORD_64 = struct.Struct("<4sQ2H2L4Q")


def checked_path(path: object, what: str) -> Path:
    """The path as a `Path`.

    Args:
        path: of a file or folder, str or PathLike.
        what: parameter that gives it, for the error message.

    Raises:
        InputError: it is no path, or a name that no file can have.
    """
    if not isinstance(path, str | os.PathLike) or not isinstance(os.fspath(path), str):
        raise InputError(f"`{what}` is a {type(path).__name__}; give a path")
    text = os.fspath(path)
    try:
        unusable = b"\0" in os.fsencode(text)
    except UnicodeEncodeError:
        unusable = True
    if unusable:
        raise InputError(f"`{what}` is {shown(text)}, and no file can have this name; give another one")
    return Path(text)


def open_regular(path: str | os.PathLike[str]) -> IO[bytes]:
    """Open a regular file for reading, without waiting for anything else that may have this name.

    Raises:
        OSError: there is no such file, it cannot be read, or it is not a regular file.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except ValueError as error:  # A NUL character, or characters that the file system cannot encode.
        raise OSError(errno.EINVAL, "no file can have this name", repr(path)) from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_json(path: str | os.PathLike[str], encoding: str = "utf-8") -> Any:
    """The content of a JSON file. Strings that no file and no terminal can hold are refused.

    Raises:
        OSError: as of `open_regular`, or the file is too large.
        ValueError: it is not JSON in this encoding.
    """
    with open_regular(path) as file:
        data = file.read(MAX_JSON + 1)
    if len(data) > MAX_JSON:
        raise OSError(errno.EFBIG, f"larger than {MAX_JSON} bytes", os.fspath(path))
    return parse_json(data.decode(encoding))


def parse_json(text: str) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is not JSON, is nested too deeply, or holds half a character (a lone surrogate).
    """
    try:
        value = json.loads(text)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return value


def open_archive(file: IO[bytes], max_entries: int) -> zipfile.ZipFile:
    """A zip archive whose directory is of a sane size; `zipfile` reads any directory into memory.

    Args:
        file: at any position.
        max_entries: that the archive may have.

    Raises:
        zipfile.BadZipFile: it is no zip archive, or its directory has more entries or more than 1000 bytes an entry.
    """
    size = file.seek(0, os.SEEK_END)
    tail_start = max(0, size - _END_RECORD.size - 0xFFFF)
    file.seek(tail_start)
    tail = file.read()
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or at + _END_RECORD.size > len(tail):
        raise zipfile.BadZipFile("the archive's end is missing")
    _, _, _, _, entries, length, _, _ = _END_RECORD.unpack_from(tail, at)
    counts, lengths = [entries], [length]
    locator_at = tail_start + at - _END_LOCATOR_64.size
    if locator_at >= 0:
        file.seek(locator_at)
        signature, _, offset, _ = _END_LOCATOR_64.unpack(file.read(_END_LOCATOR_64.size))
        if signature == b"PK\x06\x07":
            record_at = locator_at - _END_RECORD_64.size
            for start in {min(offset, size), max(0, record_at)}:
                file.seek(start)
                record = file.read(_END_RECORD_64.size)
                if len(record) == _END_RECORD_64.size and record.startswith(b"PK\x06\x06"):
                    fields = _END_RECORD_64.unpack(record)
                    counts.append(fields[7])
                    lengths.append(fields[8])
    # An archive that needs the second record says so with the largest number in the first.
    if len(counts) > 1:
        counts = [count for count in counts if count != 0xFFFF] or counts
        lengths = [length for length in lengths if length != 0xFFFFFFFF] or lengths
    if max(counts) > max_entries or max(lengths) > 1000 * max_entries:
        raise zipfile.BadZipFile(f"its directory lists {max(counts)} entries in {max(lengths)} bytes")
    file.seek(0)
    try:
        return zipfile.ZipFile(file)
    except zipfile.BadZipFile:
        raise
    except Exception as error:  # On arbitrary bytes zipfile also raises struct.error, ValueError, UnicodeDecodeError.
        raise zipfile.BadZipFile(f"its directory is damaged ({error})") from error
