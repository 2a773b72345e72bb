"""Rewriting passes for ONNX Runtime's CPU kernels, one a file.

A pass is a function that takes an `OnnxFile`, replaces nodes of it, and returns how many places it changed; 0 means
that the graph is as it was. Options are keyword arguments. A pass keeps the results of the graph to rounding error, and
does nothing where it does not find exactly the pattern that it knows.
"""
