"""The four static graphs: modules to trace, and their tracing to ONNX."""
