"""Recorded rollouts, quantization and the accuracy-drop check: the room is kept for them, and holds nothing yet."""
