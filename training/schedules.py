"""Values that change over a run."""

from __future__ import annotations

import math

from training.config import AccumulationConfig, ScheduleConfig, StepScheduleConfig, TokenScheduleConfig


def scheduled(value: float | StepScheduleConfig | TokenScheduleConfig, done: int, total: int) -> float:
    """The value after `done` of the `total` steps or tokens of a run; a constant stays what it is."""
    if not isinstance(value, ScheduleConfig):
        return value
    warmup = value.warmup_steps if isinstance(value, StepScheduleConfig) else value.warmup_tokens
    if done < warmup:
        return value.initial * done / warmup
    progress = min((done - warmup) / max(total - warmup, 1), 1.0)
    if value.shape == "cosine":
        progress = (1 - math.cos(math.pi * progress)) / 2
    return value.initial + (value.final - value.initial) * progress


def segments_per_update(value: int | AccumulationConfig, tokens: int) -> int:
    """The segments whose gradients are accumulated into one update, after `tokens` tokens of a run."""
    if not isinstance(value, AccumulationConfig):
        return value
    return value.initial if tokens < value.switch_tokens else value.final
