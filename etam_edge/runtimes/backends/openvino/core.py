"""OpenVINO's module, and the one `Core` of the process."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from etam_edge.errors import RuntimeUnavailableError

INSTALL = 'install it with: pip install "etam-edge[openvino]"'


def import_openvino() -> Any:
    """
    Raises:
        RuntimeUnavailableError: OpenVINO is not installed or does not import.
    """
    try:
        import openvino
    except ImportError as error:
        raise RuntimeUnavailableError(f"OpenVINO cannot be imported ({error}); {INSTALL}") from error
    return openvino


@lru_cache(maxsize=1)
def shared_core() -> Any:
    """The `openvino.Core` of this process, which is never released.

    Each Core of OpenVINO (2026.4.0) loads a CPU plugin, which gives the thread an alternative signal stack and puts the
    former one back when it is unloaded. Where the older of two Cores goes first, the younger one puts back a stack that
    has been freed: the next signal, for example Ctrl-C, ends the process with a segmentation fault.

    Raises:
        RuntimeUnavailableError: OpenVINO is not installed or does not import.
    """
    return import_openvino().Core()
