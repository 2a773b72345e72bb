"""Passes over ONNX models, one a file. `base` holds what they share."""
