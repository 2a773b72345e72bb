"""demo.py: from a checkpoint to a tracked video, by the commands a user would type.

Without a checkpoint and without a network the model gets seeded weights: everything runs as it would, and the masks
mean nothing.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CHAIR = ROOT / "tests" / "data" / "chair"
PARITY = ROOT / "tests" / "data" / "parity"


def run(*arguments: str | Path) -> int:
    """An `etam-edge` command, shown before it runs."""
    words = [str(argument) for argument in arguments]
    print(f"\n$ etam-edge {shlex.join(words)}", flush=True)
    return subprocess.run([sys.executable, "-m", "etam_edge", *words], check=False).returncode


def seeded_checkpoint(model: str, path: Path) -> Path:
    """A checkpoint of deterministic weights (tests/data/parity/seeded_weights.py), at `path`."""
    import torch

    sys.path.insert(0, str(PARITY))
    from seeded_weights import seeded_state_dict

    size = "s" if model.startswith("efficienttam_s") else "ti"
    manifest = json.loads((PARITY / f"manifest_efficienttam_{size}.json").read_text())
    weights = {name: torch.from_numpy(value) for name, value in seeded_state_dict(manifest, seed=11).items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"model": weights}, path)
    return path


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="efficienttam_ti_512x512")
    parser.add_argument("--checkpoint", type=Path, help="official checkpoint; without it, it is downloaded")
    options = parser.parse_args()
    out = ROOT / "out"
    bundle = out / f"{options.model}-fp32"
    export = ("export", "--model", options.model, "--output", bundle, "--overwrite")

    seeded = False
    if options.checkpoint:
        failed = run(*export, "--checkpoint", options.checkpoint)
    else:
        failed = run(*export)
        if failed:
            seeded = True
            print("\nThe official checkpoint is out of reach; seeded weights take its place.")
            failed = run(*export, "--checkpoint", seeded_checkpoint(options.model, out / f"{options.model}-seeded.pt"))
    if failed:
        return failed
    track = ("track", bundle, CHAIR / "chair.mp4", "--mask", CHAIR / "Annotations" / "frame_000000.png")
    outputs = ("--output", out / "chair.mp4", "--masks", out / "chair_masks", "--scores", out / "chair.jsonl")
    failed = run(*track, *outputs)
    if failed:
        return failed
    print(f"\nThe overlay is {out / 'chair.mp4'}; the bundle is {bundle}.")
    if seeded:
        print("The weights were seeded, not trained: after the first frame the masks mean nothing. For real ones:")
        print(f"  make demo CHECKPOINT=path/to/{options.model}.pt")
    return 0


if __name__ == "__main__":
    sys.exit(main())
