"""Bundles in OpenVINO, on the CPU."""
