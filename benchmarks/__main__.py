"""Measure the figures of docs/performance.md, and write the time of every frame to a file.

    python -m benchmarks                                        # all parts that need no other package
    python -m benchmarks --reference EfficientTAM               # compared with the reference too
    python -m benchmarks --only reference --reference EfficientTAM --models efficienttam_ti_512x512

The reference is a checkout of https://github.com/yformer/EfficientTAM; it needs torchvision, hydra-core, iopath and
tqdm beside `pip install -e ".[dev]"`. Writes performance.json, performance.md and plots to --output, and the tables to
standard output. Other work on the machine changes the figures: end it first.
"""

from __future__ import annotations

import os
import sys

# Before torch is imported: waiting OpenMP threads would spin on the cores that the next candidate needs.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# The reference draws a progress bar; it reads this when tqdm is imported.
os.environ.setdefault("TQDM_DISABLE", "1")

from benchmarks.command import main

if __name__ == "__main__":
    sys.exit(main())
