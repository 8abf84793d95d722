"""Layers that several cores share."""
