"""Checkpoints: where the official ones are, how they are downloaded and read, and their conversion to a model.

A checkpoint is what the EfficientTAM release publishes, a dict whose key `model` holds the state dict; or a bare state
dict; or a safetensors file. Files are read with `weights_only=True`: nothing in a file is ever executed.
"""

from etam_edge.bundle import sha256_of
from etam_edge.exporters.checkpoints.catalogue import KNOWN_SHA256, PACKAGED, REPOSITORY, cached_checkpoint
from etam_edge.exporters.checkpoints.conversion import load_model
from etam_edge.exporters.checkpoints.download import fetch_checkpoint

__all__ = [
    "KNOWN_SHA256",
    "PACKAGED",
    "REPOSITORY",
    "cached_checkpoint",
    "fetch_checkpoint",
    "load_model",
    "sha256_of",
]
