"""Tiny environments whose every step is written down, for the tests of the vector."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


class Scripted(gymnasium.Env[Any, Any]):
    """Episode k of the instance ends at the k-th of `ends`: (length, terminated, truncated), cyclically.

    The observation is (episode seed modulo 1000, step); the reward is step + action / 10.
    """

    def __init__(self, ends: list[tuple[int, bool, bool]]) -> None:
        self.observation_space = spaces.Box(-1.0, 1e6, (2,), np.float32)
        self.action_space = spaces.Discrete(3)
        self.ends = ends
        self.resets = 0
        self.steps_taken = 0

    def observation(self) -> Any:
        return np.array([self.seed_seen % 1000, self.steps], np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        assert seed is not None
        self.seed_seen, self.steps = seed, 0
        self.end = self.ends[self.resets % len(self.ends)]
        self.resets += 1
        return self.observation(), {}

    def step(self, action: Any) -> Any:
        assert type(action) is int
        self.steps += 1
        self.steps_taken += 1
        length, terminated, truncated = self.end
        ended = self.steps == length
        info = {"success": action == 1, "laps": 7} if ended else {}
        return self.observation(), self.steps + action / 10, ended and terminated, ended and truncated, info


class Drifting(gymnasium.Env[Any, Any]):
    """A seeded random walk steered by the action, with a random end; its seed decides an episode."""

    def __init__(self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any], limit: int = 12) -> None:
        self.observation_space, self.action_space, self.limit = observation_space, action_space, limit
        self.end_probability = 0.1

    def observation(self) -> Any:
        self.observation_space.seed(int(self.np_random.integers(2**31)))
        return self.observation_space.sample()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.steps, self.place = 0, 0.0
        return self.observation(), {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        self.place += total(action) + float(self.np_random.normal())
        terminated = bool(self.np_random.random() < self.end_probability)
        return (
            self.observation(),
            self.place,
            terminated,
            self.steps >= self.limit,
            {"is_success": self.place > 0},
        )


def total(action: Any) -> float:
    """The sum of all numbers of an action."""
    if isinstance(action, dict | tuple):
        return sum(total(part) for part in (action.values() if isinstance(action, dict) else action))
    return float(np.sum(action))
