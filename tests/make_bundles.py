"""make_bundles.py DIR: the small bundles, for an interpreter without torch to test the runtime with."""

from __future__ import annotations

import sys
from pathlib import Path

from small import export_small

from etam_edge.spec import Pooling

if __name__ == "__main__":
    for form in Pooling:
        export_small(form, Path(sys.argv[1]) / form.value)
