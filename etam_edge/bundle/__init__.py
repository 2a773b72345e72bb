"""The bundle: a directory that is copied to the device whole, and the contract between exporters and runtimes."""

from etam_edge.bundle.bundle import (
    GRAPH_NAMES,
    MANIFEST,
    OBJECTS,
    SCHEMA_VERSION,
    Bundle,
    GraphEntry,
    GraphSignature,
    Manifest,
    TensorSpec,
    check_target,
    sha256_of,
    writing,
)

__all__ = [
    "GRAPH_NAMES",
    "MANIFEST",
    "OBJECTS",
    "SCHEMA_VERSION",
    "Bundle",
    "GraphEntry",
    "GraphSignature",
    "Manifest",
    "TensorSpec",
    "check_target",
    "sha256_of",
    "writing",
]
