"""TensorRT engines, run on the CUDA driver's own calls."""
