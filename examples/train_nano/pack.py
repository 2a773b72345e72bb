"""Put trained weights into the package: the last checkpoint of a training, half precision, safetensors.

python examples/train_nano/pack.py out/nano
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from etam_edge.exporters.checkpoints import PACKAGED


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("training", type=Path, help="the --output of train.py")
    parser.add_argument("--output", type=Path, default=PACKAGED)
    options = parser.parse_args()
    folder = options.training / "checkpoint"
    latest = json.loads((folder / "latest.json").read_text())
    weights = torch.load(folder / f"{latest['step']}.weights.pt", map_location="cpu", weights_only=True)
    largest = max(float(tensor.abs().max()) for tensor in weights.values())
    if not largest < torch.finfo(torch.float16).max:
        raise SystemExit(f"{folder}: the largest weight is {largest}, beyond half precision")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.half().contiguous() for name, tensor in weights.items()}, options.output)
    options.output.chmod(0o644)  # the writer makes it its owner's alone
    trained = f"step {latest['step']}, {latest['elapsed'] / 60:.0f} minutes of training"
    print(f"{options.output}: {options.output.stat().st_size} bytes, {trained}")


if __name__ == "__main__":
    main()
