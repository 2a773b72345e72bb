"""Packages that only some workflows need."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from etam_edge.errors import RuntimeUnavailableError


@contextmanager
def export_packages(purpose: str) -> Iterator[None]:
    """Around imports of packages that the extra `export` installs (torch, onnx and others).

    Raises:
        RuntimeUnavailableError: one of them is missing.
    """
    try:
        yield
    except ImportError as error:
        raise RuntimeUnavailableError(
            f"{purpose} needs a package that is missing ({error.name}); "
            'install it with: pip install "etam-edge[export]"'
        ) from error
