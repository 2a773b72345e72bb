"""A stand-in for the namespace of cuda-bindings."""
