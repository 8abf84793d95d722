"""Measurements: how fast, how well learned, how faults are survived. The index is README.md."""
