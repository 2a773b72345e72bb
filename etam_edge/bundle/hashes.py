"""SHA-256 of files."""

from __future__ import annotations

import hashlib
from pathlib import Path

from etam_edge.errors import BundleError
from etam_edge.regular_files import open_regular


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal.

    Raises:
        BundleError: the file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with open_regular(path) as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    except OSError as error:
        raise BundleError(f"{path} cannot be read ({error.strerror}); check the disk and its permissions") from error
    return digest.hexdigest()
