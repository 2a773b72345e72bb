"""The TensorRT backend: engines of TensorRT and TensorRT for RTX, on the CUDA driver API."""
