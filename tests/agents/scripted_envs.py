"""Environments whose values are known in closed form."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np


class ConstantReward(gym.Env[np.ndarray, int]):
    """Reward 1 at every step, for ever; a time limit only truncates, so every value is 1 / (1 - gamma)."""

    observation_space = gym.spaces.Box(0, 1, (1,))
    action_space = gym.spaces.Discrete(2)

    def __init__(self, time_limit: int | None = None) -> None:
        self.time_limit = time_limit
        self.steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return np.ones(1, np.float32), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return np.ones(1, np.float32), 1.0, False, self.steps == self.time_limit, {}


class RandomEpisodes(gym.Env[np.ndarray, int]):
    """Random observations and rewards; episodes of random length end by termination or by truncation."""

    observation_space = gym.spaces.Box(-10, 10, (3,))
    action_space = gym.spaces.Discrete(3)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self._observe(), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        ending = self.np_random.random()
        reward = float(self.np_random.normal()) + action
        return self._observe(), reward, ending < 0.1, 0.1 <= ending < 0.2, {"success": ending < 0.05}

    def _observe(self) -> np.ndarray:
        return self.np_random.normal(size=3).clip(-10, 10).astype(np.float32)


for name, entry_point in (("ConstantReward-v0", ConstantReward), ("RandomEpisodes-v0", RandomEpisodes)):
    if name not in gym.registry:
        gym.register(name, entry_point=entry_point, disable_env_checker=True, order_enforce=False)
