"""make_bundles.py DIR: the small bundles, for an interpreter without torch to test the runtime with."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

from etam_edge.spec import Pooling
from etam_edge_testing.small import CAMERA, SIZES, export_small

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    for form in Pooling:
        export_small(form, folder / form.value)
    sizes = dataclasses.replace(SIZES, frame_size=CAMERA)
    export_small(Pooling.SCORE_BIAS, folder / f"camera-{CAMERA[1]}x{CAMERA[0]}", sizes)
