"""Measure what docs/performance.md says, and write every single time down.

    python -m benchmarks                                        # all that needs nothing else
    python -m benchmarks --reference EfficientTAM               # and beside the reference
    python -m benchmarks --only reference --reference EfficientTAM --models efficienttam_ti_512x512

The reference is a checkout of https://github.com/yformer/EfficientTAM; it needs torchvision, hydra-core, iopath and
tqdm beside `pip install -e ".[dev]"`. Writes performance.json, performance.md and plots to --output, and the tables to
standard output. Other work on the machine shows: end it.
"""

from __future__ import annotations

import os
import sys

# Before torch is imported, for all candidates: idle OpenMP workers would spin on the cores that the next one needs.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# The reference draws a progress bar; it reads this when tqdm is imported.
os.environ.setdefault("TQDM_DISABLE", "1")

from benchmarks.command import main

if __name__ == "__main__":
    sys.exit(main())
