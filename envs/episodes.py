"""The episodes of a vector's rows: their seeds, their course and what is told of them at their end."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import numpy as np

from envs.entries import EpisodeStats

REWARD_LIMIT = 1e18
"""Bound on the absolute reward of a step: the square of more would leave float32."""

Forgive = Callable[[str], None]
"""Notes what an environment did that is let pass."""


@dataclass(slots=True)
class Row:
    """The running episode of one environment."""

    episode: int = -1
    seed: int = 0
    length: int = 0
    return_: float = 0.0
    bootstrap: bool = False
    faults: int = 0
    """Since the row last finished an episode."""
    actions: bytearray = field(default_factory=bytearray)


def episode_seed(seed: int, row: int, episode: int, evaluation: bool) -> int:
    """The 31-bit seed of one episode: even in training, odd in evaluation, so the two never share one."""
    word = int(np.random.SeedSequence((seed, row, episode)).generate_state(1)[0])
    return (word & 0x7FFFFFFE) | evaluation


def checked_reward(reward: Any, forgive: Forgive | None = None) -> float:
    """A reward as a float; raises ValueError for what is no number, not finite, or too large.

    An array of one number is let pass where there is `forgive`.
    """
    number = np.asarray(reward)
    is_one_number = number.size == 1 and number.dtype.kind in "fiub"
    if is_one_number and number.shape != () and forgive is not None:
        forgive("a reward is an array of one number")
        number = number.reshape(())
    if not is_one_number or number.shape != ():
        hint = "; env.lenient=true takes it" if is_one_number else ""
        raise ValueError(f"reward is {reward!r}, expected a number{hint}")
    value = float(number)
    if not -REWARD_LIMIT < value < REWARD_LIMIT:
        raise ValueError(f"reward is {value}, expected a finite number below {REWARD_LIMIT:g}")
    return value


def episode_stats(row: Row, index: int, info: dict[Any, Any]) -> EpisodeStats:
    """What is told of the finished episode of the row `index`, with its last `info`."""
    success = info.get("success", info.get("is_success"))
    numbers = {
        str(key): float(value)
        for key, value in info.items()
        if key not in ("success", "is_success") and isinstance(value, Real) and math.isfinite(value)
    }
    return EpisodeStats(
        return_=row.return_,
        length=row.length,
        success=None if success is None else bool(np.all(success)),
        row=index,
        episode=row.episode,
        info=numbers,
    )
