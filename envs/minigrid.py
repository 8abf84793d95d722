"""MiniGrid and BabyAI for agents that see numbers: the symbolic view as one-hot planes."""

from __future__ import annotations

from typing import Any, SupportsFloat

import gymnasium
import numpy as np
from gymnasium import spaces
from minigrid.core.constants import COLOR_TO_IDX, OBJECT_TO_IDX, STATE_TO_IDX
from minigrid.minigrid_env import MiniGridEnv
from numpy.typing import NDArray

from envs.minigrid_view import use_fast_view

SIZES = (len(OBJECT_TO_IDX), len(COLOR_TO_IDX), len(STATE_TO_IDX))
"""Number of object types, colours and door states, in the order of the symbolic view's channels."""


class OneHotView(gymnasium.Wrapper[NDArray[np.uint8], Any, Any, Any]):
    """Each cell of the partial view as one-hot planes: object types, then colours, then states.

    Observation (7, 7, 20) uint8, with the view's height and width and the counts of `SIZES`; the compass
    heading and the text mission are dropped. The last info of an episode holds "success": it ended by
    termination with a reward.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        assert isinstance(env.observation_space, spaces.Dict)
        assert isinstance(env.unwrapped, MiniGridEnv)
        use_fast_view(env.unwrapped)
        height, width, _ = env.observation_space["image"].shape or ()
        self.observation_space = spaces.Box(0, 1, (height, width, sum(SIZES)), np.uint8)
        cells = np.arange(height * width).reshape(height, width, 1)
        self._offsets = cells * sum(SIZES) + np.concatenate(([0], np.cumsum(SIZES[:-1])))
        self._shape = (height, width, sum(SIZES))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        return self._planes(observation["image"]), info

    def step(self, action: Any) -> tuple[NDArray[np.uint8], SupportsFloat, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        if terminated or truncated:
            info = {**info, "success": terminated and float(reward) > 0}
        return self._planes(observation["image"]), reward, terminated, truncated, info

    def _planes(self, view: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(height, width, 3) indices to (height, width, planes) of ones and zeros."""
        planes = np.zeros(self._shape, np.uint8)
        planes.reshape(-1)[self._offsets + view] = 1
        return planes
