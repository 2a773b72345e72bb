"""EfficientTAM in PyTorch, in its plain form: exported graphs and other precisions are compared with it.

Official checkpoints load unchanged. The code favours clarity over speed; the algebra that makes the exported graphs
fast is in `etam_edge.exporters.graphs`.
"""

from etam_edge.model.efficienttam import EfficientTAM
from etam_edge.model.reference_tracker import ReferenceTracker

__all__ = ["EfficientTAM", "ReferenceTracker"]
