"""The bundle: a directory that can be copied to the device whole, and the contract between exporters and runtimes."""

from etam_edge.bundle.bundle import Bundle, check_target, writing
from etam_edge.bundle.hashes import sha256_of
from etam_edge.bundle.manifest import MANIFEST, SCHEMA_VERSION, Manifest, sealed
from etam_edge.bundle.signatures import GRAPH_NAMES, OBJECTS, GraphEntry, GraphSignature, TensorSpec, graph_signatures
from etam_edge.bundle.summaries import (
    Accuracy,
    Answer,
    Calibration,
    Checkpoint,
    ClipSummary,
    LargestActivation,
    ReferenceBundle,
)

__all__ = [
    "GRAPH_NAMES",
    "MANIFEST",
    "OBJECTS",
    "SCHEMA_VERSION",
    "Accuracy",
    "Answer",
    "Bundle",
    "Calibration",
    "Checkpoint",
    "ClipSummary",
    "GraphEntry",
    "GraphSignature",
    "LargestActivation",
    "Manifest",
    "ReferenceBundle",
    "TensorSpec",
    "check_target",
    "graph_signatures",
    "sealed",
    "sha256_of",
    "writing",
]
