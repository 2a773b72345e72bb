"""etam-edge: EfficientTAM from a checkpoint to a robot."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from etam_edge.bundle import Bundle
    from etam_edge.errors import EtamError
    from etam_edge.media.overlay import overlay
    from etam_edge.media.playback import follow
    from etam_edge.recipe import Recipe
    from etam_edge.runtimes import FrameResult, Prompt, Segmenter, Session, Tracker
    from etam_edge.spec import ModelSpec
    from etam_edge.workflows.build import build
    from etam_edge.workflows.check import check
    from etam_edge.workflows.export import export
    from etam_edge.workflows.progress import Progress
    from etam_edge.workflows.quantize import quantize
    from etam_edge.workflows.selftest import selftest

__version__ = "0.1.0"
_HOMES = {
    "Bundle": "etam_edge.bundle",
    "EtamError": "etam_edge.errors",
    "FrameResult": "etam_edge.runtimes",
    "ModelSpec": "etam_edge.spec",
    "Progress": "etam_edge.workflows.progress",
    "Prompt": "etam_edge.runtimes",
    "Recipe": "etam_edge.recipe",
    "Segmenter": "etam_edge.runtimes",
    "Session": "etam_edge.runtimes",
    "Tracker": "etam_edge.runtimes",
    "live": "etam_edge.workflows.live",
    "follow": "etam_edge.media.playback",
    "overlay": "etam_edge.media.overlay",
    "build": "etam_edge.workflows.build",
    "check": "etam_edge.workflows.check",
    "export": "etam_edge.workflows.export",
    "quantize": "etam_edge.workflows.quantize",
    "selftest": "etam_edge.workflows.selftest",
}
__all__ = [
    "Bundle",
    "EtamError",
    "FrameResult",
    "ModelSpec",
    "Progress",
    "Prompt",
    "Recipe",
    "Segmenter",
    "Session",
    "Tracker",
    "__version__",
    "build",
    "check",
    "export",
    "follow",
    "live",
    "overlay",
    "quantize",
    "selftest",
]


class CallableRoom(ModuleType):
    """A package inside this one with the name of a public function: `etam_edge.live` is both.

    Importing the package binds the name to it, so a call of the package is a call of the function.
    """

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        name = self.__name__.rpartition(".")[2]
        return getattr(import_module(_HOMES[name]), name)(*arguments, **options)


def __getattr__(name: str) -> Any:
    # Imported on first use, so that `import etam_edge` costs nothing.
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'etam_edge' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
