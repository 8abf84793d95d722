"""Batches of actions: what a policy chooses, and what each environment's step takes.

A policy's actions are (B,) int64 for Discrete, (B, *shape) int64 for MultiDiscrete and MultiBinary, counted from 0
whatever the `start` of the space, and (B, *shape) float32 for a Box. Those of a Dict or a Tuple are the numbers of all
parts, one part after another: (B, N) float64, which holds the choices and the numbers of a Box alike.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from envs.spaces import Array, Nest, children


def action_parts(space: gymnasium.Space[Any]) -> list[gymnasium.Space[Any]]:
    """The spaces that a Dict or Tuple of actions nests, in its order; any other space is its own only part.

    >>> action_parts(spaces.Tuple((spaces.Discrete(3), spaces.Dict({"turn": spaces.Discrete(2)}))))
    [Discrete(3), Discrete(2)]
    """
    if not isinstance(space, Nest):
        return [space]
    return [part for _, child in children(space) for part in action_parts(child)]


def action_dtype(space: gymnasium.Space[Any]) -> np.dtype[Any]:
    """The dtype of a policy's actions."""
    if isinstance(space, Nest):
        return np.dtype(np.float64)
    return np.dtype(np.float32 if isinstance(space, spaces.Box) else np.int64)


def action_shape(space: gymnasium.Space[Any]) -> tuple[int, ...]:
    """The shape of one of a policy's actions."""
    if isinstance(space, Nest):
        return (sum(math.prod(part.shape or ()) for part in action_parts(space)),)
    return space.shape or ()


def checked_actions(space: gymnasium.Space[Any], actions: Array, batch_size: int) -> Array:
    """`actions` (B, *shape) in the policy's dtype; ValueError if one is not possible in `space`."""
    actions = np.asarray(actions)
    shape, dtype = (batch_size, *action_shape(space)), action_dtype(space)
    fits = actions.dtype == dtype or np.can_cast(actions.dtype, dtype, "same_kind")
    if actions.shape != shape or not fits:
        raise ValueError(f"actions are {actions.shape} {actions.dtype}, expected {shape} {dtype}")
    actions = np.ascontiguousarray(actions, dtype)
    if isinstance(space, spaces.Discrete):
        chosen = actions.tolist()  # faster on a small batch than numpy's reductions
        possible = min(chosen) >= 0 and max(chosen) < space.n
    elif isinstance(space, spaces.MultiDiscrete | spaces.MultiBinary):
        counts = space.nvec if isinstance(space, spaces.MultiDiscrete) else 2
        possible = (actions >= 0).all() and (actions < counts).all()
    else:
        possible = np.isfinite(actions).all()
    if not possible:
        raise ValueError(f"actions {actions.tolist()} are not all in {space} counted from 0")
    if isinstance(space, Nest):
        for child, part in _split(space, actions):
            checked_actions(child, part, batch_size)
    return actions


def bounded_actions(space: gymnasium.Space[Any], actions: Array) -> Array:
    """The actions that run: checked ones, those of a Box clipped to its bounds."""
    if isinstance(space, Nest):
        parts = [bounded_actions(child, part) for child, part in _split(space, actions)]
        return np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1, dtype=action_dtype(space))
    if not isinstance(space, spaces.Box):
        return actions
    low, high = _finite_bounds(space, actions.dtype)
    return np.clip(actions, low, high)


def environment_actions(space: gymnasium.Space[Any], actions: Array) -> list[Any]:
    """What the step of each environment takes: int for Discrete, else its own array, within the bounds of a Box; of a
    Dict a dict of these, of a Tuple a tuple."""
    if isinstance(space, Nest):
        columns = [environment_actions(child, part) for child, part in _split(space, actions)]
        rows = zip(*columns, strict=True)
        return [dict(zip(space.spaces, row, strict=True)) if isinstance(space, spaces.Dict) else row for row in rows]
    if isinstance(space, spaces.Discrete):
        return (actions + space.start).tolist()  # type: ignore[no-any-return]
    if isinstance(space, spaces.MultiDiscrete):
        actions = actions + space.start
    cast = actions.astype(space.dtype)
    if isinstance(space, spaces.Box):
        cast = np.clip(cast, space.low, space.high)  # again: the cast may round over a bound
    return [np.asarray(action) for action in cast]


def _split(space: Nest, actions: Array) -> Iterator[tuple[gymnasium.Space[Any], Array]]:
    """The parts of a Dict or Tuple, each with its actions (B, *shape) of a batch (B, N)."""
    nested = [child for _, child in children(space)]
    sizes = [math.prod(action_shape(child)) for child in nested]
    for child, stop, size in zip(nested, itertools.accumulate(sizes), sizes, strict=True):
        part = actions[:, stop - size : stop].reshape(len(actions), *action_shape(child))
        yield child, part.astype(action_dtype(child))


def _finite_bounds(space: spaces.Box, dtype: np.dtype[Any]) -> tuple[Array, Array]:
    """The bounds of a Box in another dtype, where those of a wider one may overflow."""
    largest = np.finfo(dtype).max
    low, high = (np.clip(bound, -largest, largest).astype(dtype) for bound in (space.low, space.high))
    return low, high
