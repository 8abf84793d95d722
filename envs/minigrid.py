"""MiniGrid and BabyAI for agents that see numbers: the symbolic view as one-hot planes, and the mission."""

from __future__ import annotations

import string
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
MISSIONS = spaces.Text(1000, min_length=0, charset=string.ascii_letters + string.digits + string.punctuation + " ")
"""The space of missions, of which MiniGrid's own says no characters."""


class OneHotView(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Each cell of the partial view as one-hot planes: object types, then colours, then states.

    Observation (7, 7, 20) uint8, with the view's height and width and the counts of `SIZES`; the compass
    heading is dropped. Where missions differ between episodes it is {"image": these planes, "mission": its text}.
    The last info of an episode holds "success": it ended by termination with a reward.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        assert isinstance(env.observation_space, spaces.Dict)
        assert isinstance(env.unwrapped, MiniGridEnv)
        use_fast_view(env.unwrapped)
        height, width, _ = env.observation_space["image"].shape or ()
        planes = spaces.Box(0, 1, (height, width, sum(SIZES)), np.uint8)
        self._shows_mission = missions_differ(env)
        self.observation_space = spaces.Dict(image=planes, mission=MISSIONS) if self._shows_mission else planes
        cells = np.arange(height * width).reshape(height, width, 1)
        self._offsets = cells * sum(SIZES) + np.concatenate(([0], np.cumsum(SIZES[:-1])))
        self._shape = (height, width, sum(SIZES))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        return self._observed(observation), info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        if terminated or truncated:
            info = {**info, "success": terminated and float(reward) > 0}
        return self._observed(observation), reward, terminated, truncated, info

    def _observed(self, observation: Any) -> Any:
        planes = self._planes(observation["image"])
        return {"image": planes, "mission": observation["mission"]} if self._shows_mission else planes

    def _planes(self, view: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(height, width, 3) indices to (height, width, planes) of ones and zeros."""
        planes = np.zeros(self._shape, np.uint8)
        planes.reshape(-1)[self._offsets + view] = 1
        return planes


def missions_differ(env: gymnasium.Env[Any, Any]) -> bool:
    """Whether the mission tells what the task of an episode is: most of MiniGrid's have one for all episodes."""
    assert isinstance(env.observation_space, spaces.Dict)
    mission = env.observation_space["mission"]
    # The spaces of BabyAI say nothing of its missions, which always differ.
    return getattr(mission, "ordered_placeholders", None) is not None or "babyai" in type(env.unwrapped).__module__
