"""Observations of nested Gymnasium spaces as flat lists of leaves, one batch array a leaf.

A leaf is a Box, Discrete or MultiDiscrete space; Dict and Tuple nest them. Discrete and MultiDiscrete values
are counted from 0 here, whatever the `start` of the space.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from envs.errors import EnvError

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Leaf:
    """One array of an observation: where it is in the nest, and what each environment must give."""

    path: tuple[str | int, ...]
    space: gymnasium.Space[Any]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    start: Array | None
    """What is subtracted from the values so that they count from 0; None where they already do."""
    high: Array | None
    """(shape), one above the highest value counted from 0; None for a Box."""

    @property
    def name(self) -> str:
        """Its name in the observation of an entry, e.g. `observation['camera']`; `observation` if there is no nest."""
        return "observation" + "".join(f"[{key!r}]" for key in self.path)


def leaves(space: gymnasium.Space[Any], path: tuple[str | int, ...] = ()) -> list[Leaf]:
    """The leaves of an observation space, in the order of the nest; EnvError on a type that has none."""
    match space:
        case spaces.Dict():
            return [leaf for key, part in space.spaces.items() for leaf in leaves(part, (*path, key))]
        case spaces.Tuple():
            return [leaf for i, part in enumerate(space.spaces) for leaf in leaves(part, (*path, i))]
        case spaces.Box():
            return [Leaf(path, space, space.shape, np.dtype(space.dtype), None, None)]
        case spaces.Discrete() | spaces.MultiDiscrete():
            start = np.asarray(space.start, np.int64)
            high = np.asarray(space.n if isinstance(space, spaces.Discrete) else space.nvec, np.int64)
            return [Leaf(path, space, high.shape, np.dtype(np.int64), start if start.any() else None, high)]
    where = "observation_space" + "".join(f"[{key!r}]" for key in path)
    expected = "Box, Discrete, MultiDiscrete, Dict or Tuple"
    raise EnvError(f"{where} is {type(space).__name__}, expected {expected}")


def check_spaces(env: gymnasium.Env[Any, Any]) -> None:
    """Raise EnvError, naming the subspace and its type, unless an agent can observe and act in `env`.

    Observations: Box, Discrete, MultiDiscrete, or Dict and Tuple of these, nested. Actions: Discrete,
    MultiDiscrete or a Box of floats, bounded or not.
    """
    if not leaves(env.observation_space):
        raise EnvError("observation_space is empty")
    action = env.action_space
    if not isinstance(action, spaces.Discrete | spaces.MultiDiscrete | spaces.Box):
        raise EnvError(f"action_space is {type(action).__name__}, expected Discrete, MultiDiscrete or Box")
    if isinstance(action, spaces.Box) and not np.issubdtype(np.dtype(action.dtype), np.floating):
        raise EnvError(f"action_space is a Box of {action.dtype}, expected a Box of floats")


def write(leaf: Leaf, batch: Array, row: int, observation: Any) -> None:
    """Put the leaf's part of one observation into `batch[row]`; ValueError if it does not fit."""
    for key in leaf.path:
        try:
            observation = observation[key]
        except (KeyError, IndexError, TypeError):
            raise ValueError(f"{leaf.name} is missing") from None
    if type(observation) is int and leaf.high is not None and leaf.high.ndim == 0:
        batch[row] = observation
        return
    if type(observation) is not np.ndarray:
        try:
            observation = np.asarray(observation)
        except ValueError as error:
            raise ValueError(f"{leaf.name} is not an array: {error}") from None
    if observation.shape != leaf.shape:
        raise ValueError(f"{leaf.name} has shape {observation.shape}, expected {leaf.shape}")
    if observation.dtype != leaf.dtype and not np.can_cast(observation.dtype, leaf.dtype, "same_kind"):
        raise ValueError(f"{leaf.name} has dtype {observation.dtype}, expected {leaf.dtype}")
    batch[row] = observation


def settle(leaf: Leaf, batch: Array) -> tuple[int, str] | None:
    """Count a filled batch (B, *shape) from 0, in place; returns the first impossible row, and why."""
    if leaf.high is None:
        if batch.dtype.kind != "f" or np.isfinite(batch).all():
            return None
        wrong = ~np.isfinite(batch)
        expected = "finite values"
    else:
        if leaf.start is not None:
            batch -= leaf.start
        wrong = (batch < 0) | (batch >= leaf.high)
        if not wrong.any():
            return None
        low = 0 if leaf.start is None else leaf.start
        expected = f"values from {low} to {leaf.high + low - 1}"
    row = int(np.argmax(wrong.reshape(len(batch), -1).any(axis=1)))
    got = (batch[row] if leaf.start is None else batch[row] + leaf.start)[wrong[row]].flat[0]
    return row, f"{leaf.name} has {got}, expected {expected}"
