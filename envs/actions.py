"""Batches of actions: what a policy chooses, and what each environment's step takes.

A policy's actions are (B,) int64 for Discrete, (B, *shape) int64 for MultiDiscrete and MultiBinary, counted from 0
whatever the `start` of the space, and (B, *shape) float32 for a Box.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from envs.spaces import Array


def action_dtype(space: gymnasium.Space[Any]) -> np.dtype[Any]:
    """The dtype of a policy's actions."""
    return np.dtype(np.float32 if isinstance(space, spaces.Box) else np.int64)


def checked_actions(space: gymnasium.Space[Any], actions: Array, batch_size: int) -> Array:
    """`actions` (B, *shape) in the policy's dtype; ValueError if one is not possible in `space`."""
    actions = np.asarray(actions)
    shape, dtype = (batch_size, *(space.shape or ())), action_dtype(space)
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
    return actions


def bounded_actions(space: gymnasium.Space[Any], actions: Array) -> Array:
    """The actions that run: checked ones, those of a Box clipped to its bounds."""
    if not isinstance(space, spaces.Box):
        return actions
    low, high = _finite_bounds(space, actions.dtype)
    return np.clip(actions, low, high)


def environment_actions(space: gymnasium.Space[Any], actions: Array) -> list[Any]:
    """What the step of each environment takes: int for Discrete, else its own array, within the bounds of a Box."""
    if isinstance(space, spaces.Discrete):
        return (actions + space.start).tolist()  # type: ignore[no-any-return]
    if isinstance(space, spaces.MultiDiscrete):
        actions = actions + space.start
    cast = actions.astype(space.dtype)
    if isinstance(space, spaces.Box):
        cast = np.clip(cast, space.low, space.high)  # again: the cast may round over a bound
    return [np.asarray(action) for action in cast]


def _finite_bounds(space: spaces.Box, dtype: np.dtype[Any]) -> tuple[Array, Array]:
    """The bounds of a Box in another dtype, where those of a wider one may overflow."""
    largest = np.finfo(dtype).max
    low, high = (np.clip(bound, -largest, largest).astype(dtype) for bound in (space.low, space.high))
    return low, high
