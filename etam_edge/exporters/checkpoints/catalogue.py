"""The published checkpoints: where they are, their hashes, and which of them are on this machine."""

from __future__ import annotations

from pathlib import Path

from etam_edge.spec import NANO

REPOSITORY = "yunyangx/efficient-track-anything"
"""Repository on Hugging Face; it holds one file `<variant>.pt` for each official variant."""
KNOWN_SHA256: dict[str, str] = {
    "efficienttam_s": "2b572be30d9e96ee29c8d785fe157c6b079ede7d56fbc8a3671d4120e63c89cd",
    "efficienttam_ti": "acbb17b28cca1f860acee09c9ecb6efdb732080dc7a85a07292c31813175fa7d",
    "efficienttam_s_512x512": "67b5840012737ed2c94a4cb8787c5c1b27b3a946045d2e602e65ef77230b6085",
    "efficienttam_ti_512x512": "7d4d652a465f0081391050932f45d8a66768ccc99c8ea393ce8a5927e83f3b9b",
}
"""Sha256 of the published files by variant; those of the other variants are not known."""
PACKAGED = Path(__file__).resolve().parents[2] / "weights" / f"{NANO.name}.safetensors"
"""Trained weights of `etam_nano`, stored in half precision (etam_edge/weights/MODEL_CARD.md)."""


def file_name(variant: str) -> str:
    """Name of a variant's file in the repository."""
    return f"{variant}.pt"


def cached_checkpoint(variant: str) -> Path | None:
    """Path of a model's checkpoint on this machine, in the package or in the hub's cache, or None.

    Does not use the network and does not read the file.
    """
    if variant == NANO.name:
        return PACKAGED if PACKAGED.exists() else None
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return None
    try:
        path = try_to_load_from_cache(REPOSITORY, file_name(variant))
    except OSError:
        return None
    return Path(path) if isinstance(path, str) else None
