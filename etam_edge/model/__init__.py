"""EfficientTAM in PyTorch, in plain form: the yardstick that every graph and precision is held against.

Official checkpoints load as they are. Nothing here is fast on purpose; the algebra that makes the exported graphs fast
lives in `etam_edge.exporters`.
"""

from etam_edge.model.efficienttam import EfficientTAM
from etam_edge.model.reference_tracker import ReferenceTracker

__all__ = ["EfficientTAM", "ReferenceTracker"]
