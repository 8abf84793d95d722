"""Values that change over a run: learning rate and entropy cost."""

from __future__ import annotations

import math

from agents.config import ScheduleConfig


def scheduled(value: float | ScheduleConfig, step: int, total_steps: int) -> float:
    """The value after `step` of `total_steps` environment steps; constants stay what they are."""
    if not isinstance(value, ScheduleConfig):
        return value
    if step < value.warmup_steps:
        return value.initial * step / value.warmup_steps
    span = max(total_steps - value.warmup_steps, 1)
    progress = min((step - value.warmup_steps) / span, 1.0)
    if value.shape == "cosine":
        progress = (1 - math.cos(math.pi * progress)) / 2
    return value.initial + (value.final - value.initial) * progress
