"""The part of the CUDA driver API that etam-edge needs: memory, streams and graphs, behind one protocol (`Cuda`).

PyCUDA and cuda-bindings implement it, whichever is installed. Importing these modules does not load a driver.
"""
