"""What runs a bundle's graphs: ONNX Runtime or TensorRT, behind one protocol."""
