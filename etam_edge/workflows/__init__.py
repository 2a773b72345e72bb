"""Export, quantize, build, check and the other tasks of the command line, as functions.

`etam_edge.export`, `etam_edge.quantize`, `etam_edge.build` and `etam_edge.check` are the public ones. Each function
checks all of its arguments before it starts long work, reports its progress to a callback
(`etam_edge.workflows.progress`) and prints nothing.
"""
