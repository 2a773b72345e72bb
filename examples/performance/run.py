"""Measure what docs/performance.md says, and write every single time down.

    python examples/performance/run.py                                        # all that needs nothing else
    python examples/performance/run.py --reference EfficientTAM               # and beside the reference
    python examples/performance/run.py --only reference --reference EfficientTAM --models efficienttam_ti_512x512

The reference is a checkout of https://github.com/yformer/EfficientTAM; it needs torchvision, hydra-core, iopath and
tqdm beside `pip install -e ".[dev]"`. Writes performance.json, performance.md and plots to --output, and the tables to
standard output. Other work on the machine shows: end it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

# Before torch is imported, for all contenders: idle OpenMP workers would spin on the cores that the next one needs.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# The reference draws a progress bar; it reads this when tqdm is imported.
os.environ.setdefault("TQDM_DISABLE", "1")

EXAMPLES = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(EXAMPLES), str(EXAMPLES.parent / "tests")]

from performance.command import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
