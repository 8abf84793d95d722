"""Environments whose values are known in closed form."""

from __future__ import annotations

import random
import time
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np


class ConstantReward(gym.Env[np.ndarray, int]):
    """Reward 1 at every step, for ever; time limits only truncate, so every value is 1 / (1 - gamma).

    The limit of each episode is drawn from 1 to twice `mean_time_limit`, so that rows do not end together.
    """

    observation_space = gym.spaces.Box(0, 1, (1,))
    action_space = gym.spaces.Discrete(2)

    def __init__(self, mean_time_limit: int | None = None) -> None:
        self.mean_time_limit = mean_time_limit
        self.steps_left: int | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if self.mean_time_limit is not None:
            self.steps_left = int(self.np_random.integers(1, 2 * self.mean_time_limit))
        return np.ones(1, np.float32), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if self.steps_left is not None:
            self.steps_left -= 1
        return np.ones(1, np.float32), 1.0, False, self.steps_left == 0, {}


class RandomEpisodes(gym.Env[np.ndarray, int]):
    """Random observations and rewards; episodes of random length end by termination or by truncation."""

    observation_space = gym.spaces.Box(-10, 10, (3,))
    action_space = gym.spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self._observe(), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        ending = self.np_random.random()
        reward = float(self.np_random.normal()) + action
        return self._observe(), reward, ending < 0.1, 0.1 <= ending < 0.2, {"success": ending < 0.05}

    def _observe(self) -> np.ndarray:
        return self.np_random.normal(size=3).clip(-10, 10).astype(np.float32)


class Faulty(RandomEpisodes):
    """Raises or hangs at its `at`-th step."""

    def __init__(self, fault: str, at: int) -> None:
        self.fault = fault
        self.steps_left = at

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps_left -= 1
        if self.steps_left == 0 and self.fault == "raise":
            raise RuntimeError("the maze fell in")
        if self.steps_left == 0 and self.fault == "hang":
            time.sleep(3600)
        return super().step(action)


class Single(RandomEpisodes):
    """A simulator of which a process can hold one."""

    metadata: ClassVar = {"render_modes": ["rgb_array"]}
    open_now: ClassVar[list[gym.Env[Any, Any]]] = []

    def __init__(self, render_mode: str | None = None) -> None:
        if self.open_now:
            raise RuntimeError("one simulator a process")
        self.render_mode = render_mode
        self.open_now.append(self)

    def render(self) -> np.ndarray:  # type: ignore[override]
        return np.zeros((16, 16, 3), np.uint8)

    def close(self) -> None:
        self.open_now.clear()


class GlobalDice(RandomEpisodes):
    """Draws from the global generators of Python and numpy; an episode's last info has a number."""

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, _, terminated, truncated, _ = super().step(action)
        return observation, random.random() + np.random.rand(), terminated, truncated, {"laps": 3}  # noqa: NPY002


class Sloppy(RandomEpisodes):
    """Gives each reward in an array, and observations a little over their bound."""

    observation_space = gym.spaces.Box(-1, 1, (3,))

    def step(self, action: int) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, _, *rest = super().step(action)
        return observation, np.ones(1), *rest

    def _observe(self) -> np.ndarray:
        return super()._observe().clip(-1.05, 1.05)


class Levers(gym.Env[Any, Any]):
    """Says in words which lever to pull, and is to be told with how much force; reward 1 for the lever it said."""

    observation_space = gym.spaces.Dict(mission=gym.spaces.Text(40, charset="bdehlprtu "), mood=gym.spaces.Discrete(3))
    action_space = gym.spaces.Dict(
        lever=gym.spaces.Discrete(2, start=5), arm=gym.spaces.Tuple((gym.spaces.Box(-1, 1, (2,)),))
    )

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert action in self.action_space
        right = action["lever"] == 5 + self.asked
        ending = self.np_random.random()
        return self._observe(), float(right), ending < 0.1, 0.1 <= ending < 0.2, {"success": right}

    def _observe(self) -> dict[str, Any]:
        self.asked = int(self.np_random.integers(2))
        return {"mission": f"pull the {('red', 'blue')[self.asked]} ", "mood": int(self.np_random.integers(3))}


TASKS = {
    "Levers-v0": Levers,
    "Sloppy-v0": Sloppy,
    "GlobalDice-v0": GlobalDice,
    "ConstantReward-v0": ConstantReward,
    "RandomEpisodes-v0": RandomEpisodes,
    "Faulty-v0": Faulty,
    "Single-v0": Single,
}
for name, entry_point in TASKS.items():
    if name not in gym.registry:
        gym.register(name, entry_point=entry_point, disable_env_checker=True, order_enforce=False)
