"""The bundles that are measured: ready ones, or exported here from the same weights that the reference gets."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

import numpy as np

from etam_edge.bundle import MANIFEST, Bundle
from etam_edge.errors import InputError
from etam_edge.recipe import FP32, INT8
from etam_edge.spec import NANO, GraphSizes, find_spec
from etam_edge_testing.davis import write_crossing
from etam_edge_testing.goldens import seeded_state_dict

if TYPE_CHECKING:
    from etam_edge.model import EfficientTAM
    from etam_edge.model.image_encoder import Block

SEED = 11
"""Of the weights of official models: time does not depend on what they say."""
PADDED = f"{FP32}-padded"
CALIBRATION_FRAMES = 24
"""Of the drawn clip: enough to fill memory. Accuracy on trained weights is what `etam-edge check` is for."""


def seeded_weights(name: str) -> dict[str, np.ndarray]:
    """Weights of an official model, float32 by parameter name."""
    return seeded_state_dict(name, SEED)


def make_model(name: str) -> EfficientTAM:
    """The model in evaluation mode: trained weights for `etam_nano`, seeded ones for official models.

    Raises:
        InputError: no model has this name.
    """
    import torch

    from etam_edge.exporters.checkpoints import PACKAGED, load_model
    from etam_edge.model import EfficientTAM

    spec = find_spec(name)
    if spec == NANO:
        return load_model(spec, PACKAGED)
    model = EfficientTAM(spec).eval()
    model.load_state_dict({key: torch.from_numpy(value) for key, value in seeded_weights(name).items()})
    return model


def export_fp32(bundles: Bundles, name: str, path: Path) -> None:
    """As `etam-edge export` does it."""
    from etam_edge.exporters.export import export_bundle

    export_bundle(make_model(name), path, GraphSizes(), {"name": f"seed {SEED}", "sha256": ""}, overwrite=True)


def export_padded(bundles: Bundles, name: str, path: Path) -> None:
    """In fp32, but windows are padded with zeros, and the padding is projected, as in the model."""
    from etam_edge.exporters.graphs.static_windows import StaticBlock

    def block_of(block: Block, padded: bool) -> Block | StaticBlock:
        return StaticBlock(block) if block.window is None else block

    with mock.patch("etam_edge.exporters.graphs.modules.StaticBlock", block_of):
        export_fp32(bundles, name, path)


def derive_int8(bundles: Bundles, name: str, path: Path) -> None:
    """As `etam-edge quantize` does it, from the fp32 bundle, calibrated on a few frames of the drawn clip."""
    from etam_edge import quantize
    from etam_edge.cli.console import showing_progress

    with tempfile.TemporaryDirectory() as folder, showing_progress() as progress:
        write_crossing(Path(folder), CALIBRATION_FRAMES)
        # fp32 elsewhere: a CPU gains nothing from float16.
        quantize(bundles.get(name), folder, INT8, path, float_precision=FP32, overwrite=True, progress=progress)


KINDS: dict[str, Callable[[Bundles, str, Path], None]] = {
    FP32: export_fp32,
    PADDED: export_padded,
    INT8: derive_int8,
}
"""How a bundle of each kind is made, by its precision, optionally with a suffix: "fp32-padded"."""


class Bundles:
    """Bundles by model and kind.

    Args:
        made: folder where those that are missing are written.
        ready: folder of bundles named MODEL-KIND, or MODEL in fp32, which are taken as they are; or None.
    """

    def __init__(self, made: Path, ready: Path | None = None) -> None:
        self._made = made
        self._ready = ready
        self._known: dict[tuple[str, str], Path] = {}

    def get(self, name: str, kind: str = FP32) -> Path:
        """The path of a bundle, which is made where no ready one is there: once a run, with progress bars.

        A bundle that an earlier run exported is exported again, since the sources may have changed.

        Raises:
            InputError: no model has this name, or a ready bundle is another model's or precision's.
            EtamError: it cannot be made.
        """
        key = name, kind
        if key not in self._known:
            path = self._find(name, kind)
            if path is None:
                path = self._made / f"{name}-{kind}"
                path.parent.mkdir(parents=True, exist_ok=True)
                KINDS[kind](self, name, path)
            self._known[key] = path
        return self._known[key]

    def _find(self, name: str, kind: str) -> Path | None:
        if self._ready is None:
            return None
        precision = kind.split("-")[0]
        for word in (f"{name}-{kind}", *([name] if kind == FP32 else [])):
            path = self._ready / word
            if not (path / MANIFEST).is_file():
                continue
            manifest = Bundle.load(path).manifest
            if (manifest.model.name, manifest.precision) != (name, precision):
                raise InputError(
                    f"{path} is {manifest.model.name} in {manifest.precision}, not {name} in {precision}; "
                    "rename it, or name another folder with --bundles"
                )
            return path
        return None
