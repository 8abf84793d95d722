"""Values that change over a run."""

from __future__ import annotations

import math

from training.config import AccumulationConfig, ScheduleConfig


def scheduled(value: float | ScheduleConfig, done: int, total: int) -> float:
    """The value after `done` of the `total` steps or tokens of a run; a constant stays what it is."""
    if not isinstance(value, ScheduleConfig):
        return value
    if done < value.warmup:
        return value.initial * done / value.warmup
    progress = min((done - value.warmup) / max(total - value.warmup, 1), 1.0)
    if value.shape == "cosine":
        progress = (1 - math.cos(math.pi * progress)) / 2
    return value.initial + (value.final - value.initial) * progress


def segments_per_update(value: int | AccumulationConfig, tokens: int) -> int:
    """The segments whose gradients are accumulated into one update, after `tokens` tokens of a run."""
    if not isinstance(value, AccumulationConfig):
        return value
    return value.initial if tokens < value.switch_tokens else value.final
