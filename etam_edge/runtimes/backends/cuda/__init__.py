"""CUDA as much of it as etam-edge needs: memory, streams, events and graphs, behind one small seam.

PyCUDA or cuda-bindings stand behind it, whichever is installed. Nothing here touches a driver when it is imported.
"""
