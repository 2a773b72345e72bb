"""The self-test: whether a bundle runs on this machine as it should, step by step, each with a time limit.

Needs NumPy, Pillow and the runtime that is tested; neither PyTorch nor onnx.
"""
