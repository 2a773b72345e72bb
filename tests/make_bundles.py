"""make_bundles.py DIR: write the small bundles, with which an interpreter without torch tests the runtime."""

from __future__ import annotations

import dataclasses
import shutil
import sys
from functools import partial
from pathlib import Path

from etam_edge.spec import Pooling
from etam_edge_testing.bundle_cache import cached_bundle
from etam_edge_testing.small import CAMERA, SIZES, export_small

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    camera = f"camera-{CAMERA[1]}x{CAMERA[0]}"
    sizes = dataclasses.replace(SIZES, frame_size=CAMERA)
    exports = {f"small-{pooling.value}": (pooling.value, partial(export_small, pooling)) for pooling in Pooling}
    exports[camera] = camera, partial(export_small, Pooling.SCORE_BIAS, sizes=sizes)
    for name, (place, export) in exports.items():
        shutil.copytree(cached_bundle(name, export), folder / place)
