"""Recorded rollouts, int8 scales and Q/DQ pairs from them, and the accuracy-drop check."""
