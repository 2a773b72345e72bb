"""From a checkpoint to a bundle: static ONNX graphs, verified against the PyTorch model."""
