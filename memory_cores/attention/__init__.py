"""Attention over a scheduled memory, for whole calls and for cached single steps."""
