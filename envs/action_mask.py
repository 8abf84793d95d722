"""Which actions are possible at a step: a part of the observation that the policy's choices are limited by."""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from envs.actions import action_parts
from envs.errors import EnvError
from envs.spaces import Array, Leaf, leaves

KEY = "action_mask"


def num_choices(space: gymnasium.Space[Any]) -> int | None:
    """The length of a mask: the choices of all components of an action, one after another; None where a Box is one."""
    match space:
        case spaces.Dict() | spaces.Tuple():
            counts = [num_choices(part) for part in action_parts(space)]
            return None if None in counts else sum(count or 0 for count in counts)
        case spaces.Discrete():
            return int(space.n)
        case spaces.MultiDiscrete():
            return int(space.nvec.sum())
        case spaces.MultiBinary():
            return 2 * math.prod(space.shape)
    return None


def mask_leaf(observation_space: gymnasium.Space[Any], action_space: gymnasium.Space[Any]) -> Leaf | None:
    """The leaf "action_mask" of a Dict of observations, where 0 is an action that is not possible; None without one.

    Raises EnvError unless it has one number for each choice.
    """
    expected = num_choices(action_space)
    found = [leaf for leaf in leaves(observation_space) if leaf.path == (KEY,)]
    if not found or isinstance(action_space, spaces.Box):
        return None
    (leaf,) = found
    if expected is None:
        raise EnvError(f"{leaf.name}: actions are {action_space}, expected choices alone, without a Box")
    if math.prod(leaf.shape) != expected:
        raise EnvError(f"{leaf.name} has shape {leaf.shape}, expected a number for each of {expected} choices")
    return leaf


class ActionMaskFromInfo(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Puts the "action_mask" of `info` into the observation: {"observation": as it was, "action_mask": (choices,)}.

    A step's `info` without one is a fault, but for an episode's last.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        count = num_choices(env.action_space)
        if count is None:
            raise EnvError(f"ActionMaskFromInfo: actions are {env.action_space}, expected choices")
        self._none = np.ones(count, np.int8)
        self.observation_space = spaces.Dict({"observation": env.observation_space, KEY: spaces.MultiBinary(count)})

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        return {"observation": observation, KEY: self._mask(info)}, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        mask = self._none if (terminated or truncated) and KEY not in info else self._mask(info)
        return {"observation": observation, KEY: mask}, reward, terminated, truncated, info

    def _mask(self, info: dict[str, Any]) -> Array:
        if KEY not in info:
            raise ValueError(f"info has no {KEY!r}, but {sorted(map(str, info))}")
        return np.asarray(info[KEY]).ravel().astype(np.int8)
