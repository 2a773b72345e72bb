"""Shared by tests and benchmarks: seeded models, golden files, small clips, and simulated CUDA and TensorRT.

Not part of the installed package: run tests and benchmarks from the root of the repository.
"""
