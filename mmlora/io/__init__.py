"""Bytes in and out: safe checkpoints, atomic writes, layouts of weights, rank files."""
