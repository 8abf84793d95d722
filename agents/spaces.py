"""Observations as flat dicts of arrays, one entry a leaf of the observation space."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

Leaves = dict[str, gym.Space[Any]]


def leaf_spaces(space: gym.Space[Any], path: str = "observation") -> Leaves:
    """The leaves of a Dict or Tuple space (nested or not) by their path, e.g. `observation/camera`."""
    if isinstance(space, gym.spaces.Dict):
        children = list(space.spaces.items())
    elif isinstance(space, gym.spaces.Tuple):
        children = [(str(i), child) for i, child in enumerate(space.spaces)]
    else:
        return {path: space}
    return {key: leaf for name, child in children for key, leaf in leaf_spaces(child, f"{path}/{name}").items()}


def leaf_arrays(observation: Any, path: str = "observation") -> dict[str, np.ndarray]:
    """The arrays of a (batched) observation under the paths that `leaf_spaces` gives them."""
    if isinstance(observation, dict):
        children = list(observation.items())
    elif isinstance(observation, tuple):
        children = [(str(i), child) for i, child in enumerate(observation)]
    else:
        return {path: observation}
    return {key: leaf for name, child in children for key, leaf in leaf_arrays(child, f"{path}/{name}").items()}
