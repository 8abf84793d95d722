"""Values that change over a run: the learning rate and the update period."""

from __future__ import annotations

import math

from lm.config import ScheduleConfig, UpdatePeriodConfig


def learning_rate(value: float | ScheduleConfig, step: int, total_steps: int) -> float:
    """The learning rate after `step` of `total_steps` tokens; a constant stays what it is."""
    if not isinstance(value, ScheduleConfig):
        return value
    if step < value.warmup_steps:
        return value.initial * step / value.warmup_steps
    progress = min((step - value.warmup_steps) / max(total_steps - value.warmup_steps, 1), 1.0)
    if value.shape == "cosine":
        progress = (1 - math.cos(math.pi * progress)) / 2
    return value.initial + (value.final - value.initial) * progress


def update_period(value: int | UpdatePeriodConfig, step: int) -> int:
    """The segments in one update after `step` tokens."""
    if not isinstance(value, UpdatePeriodConfig):
        return value
    return value.initial if step < value.switch_step else value.final
