"""Observations of nested Gymnasium spaces as flat lists of leaves, one batch array a leaf.

A leaf is a Box, Discrete, MultiDiscrete, MultiBinary or Text space; Dict and Tuple nest them. Discrete and
MultiDiscrete values are counted from 0 here, whatever the `start` of the space; MultiBinary is a Box of zeros and ones,
and Text the hashes of its words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from envs.errors import EnvError
from envs.text import BUCKETS, MAX_WORDS, hashed_words

Array = NDArray[Any]
Nest = spaces.Dict | spaces.Tuple

BOUND_SLACK = 1e-5
"""By how much, relative to the bound, a float may leave its Box: environments compute in other precisions than they
declare."""
SLIGHT = 0.1
"""By how much, relative to the bound, it may leave its Box where that is forgiven."""
VALUE_LIMIT = 1e18
"""Bound on the absolute value of an observed number: the square of more would leave float32."""


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
    bounds: tuple[Array, Array] | None = None
    """(shape) each, the lowest and highest value of a Box, with some slack for rounding; None if every value up to
    VALUE_LIMIT is possible."""

    @property
    def nothing(self) -> Array:
        """A possible observation that means nothing: the one nearest to zeros, or the first choice."""
        if self.start is not None:
            return self.start
        zeros = np.zeros(self.shape, self.dtype)
        return zeros if self.bounds is None else np.clip(zeros, *self.bounds)

    @property
    def name(self) -> str:
        """Its name in the observation of an entry."""
        return observation_name(self.path)


def children(space: Nest) -> list[tuple[str | int, gymnasium.Space[Any]]]:
    """The parts of a Dict or Tuple, each with its key or index."""
    return [*(space.spaces.items() if isinstance(space, spaces.Dict) else enumerate(space.spaces))]


def leaves(space: gymnasium.Space[Any], path: tuple[str | int, ...] = ()) -> list[Leaf]:
    """The leaves of an observation space, in the order of the nest; EnvError on a type that has none.

    >>> camera, goal = spaces.Box(0, 255, (8, 8, 3), np.uint8), spaces.Discrete(4)
    >>> [(leaf.name, leaf.shape) for leaf in leaves(spaces.Dict({"camera": camera, "goal": goal}))]
    [("observation['camera']", (8, 8, 3)), ("observation['goal']", ())]
    """
    match space:
        case spaces.Dict() | spaces.Tuple():
            return [leaf for key, part in children(space) for leaf in leaves(part, (*path, key))]
        case spaces.MultiBinary():
            return leaves(spaces.Box(0, 1, space.shape, np.int8), path)
        case spaces.Box() if 0 in space.shape:
            raise EnvError(f"{_place(path)} is a Box of shape {space.shape}, which holds no number")
        case spaces.Box():
            return [Leaf(path, space, space.shape, np.dtype(space.dtype), None, None, _bounds(space))]
        case spaces.Discrete() | spaces.MultiDiscrete():
            start = np.asarray(space.start, np.int64)
            high = np.asarray(space.n if isinstance(space, spaces.Discrete) else space.nvec, np.int64)
            return [Leaf(path, space, high.shape, np.dtype(np.int64), start if start.any() else None, high)]
        case spaces.Text():
            shape = min(max(space.max_length, 1), MAX_WORDS), 2
            return [Leaf(path, space, shape, np.dtype(np.int64), None, np.full(shape, BUCKETS))]
    expected = "Box, Discrete, MultiDiscrete, MultiBinary, Text, Dict or Tuple"
    hint = "; FilterObservation of env.kwargs.wrappers leaves it out, a wrapper of your own makes numbers of it"
    raise EnvError(f"{_place(path)} is {type(space).__name__}, expected {expected}{hint if path else ''}")


def _place(path: tuple[str | int, ...], of: str = "observation_space") -> str:
    return of + "".join(f"[{key!r}]" for key in path)


def check_spaces(env: gymnasium.Env[Any, Any]) -> None:
    """Raise EnvError, naming the subspace and its type, unless an agent can observe and act in `env`.

    Observations: Box, Discrete, MultiDiscrete, MultiBinary, Text, or Dict and Tuple of these, nested. Actions:
    Discrete, MultiDiscrete, MultiBinary or a Box of floats, bounded or not, or Dict and Tuple of these, nested.
    """
    if not leaves(env.observation_space):
        raise EnvError("observation_space is empty")
    _check_actions(env.action_space)


def _check_actions(space: gymnasium.Space[Any], path: tuple[str | int, ...] = ()) -> None:
    where, kind = _place(path, "action_space"), type(space).__name__
    if isinstance(space, Nest):
        if not space.spaces:
            raise EnvError(f"{where} is empty")
        for key, part in children(space):
            _check_actions(part, (*path, key))
    elif not isinstance(space, spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary | spaces.Box):
        raise EnvError(f"{where} is {kind}, expected Discrete, MultiDiscrete, MultiBinary, Box, Dict or Tuple")
    elif 0 in (space.shape or ()):
        raise EnvError(f"{where} is a {kind} of shape {space.shape}, which holds no number")
    elif isinstance(space, spaces.Box) and not np.issubdtype(np.dtype(space.dtype), np.floating):
        raise EnvError(f"{where} is a Box of {space.dtype}, expected a Box of floats")


@dataclass(frozen=True, slots=True)
class Branch:
    """One Dict or Tuple of an observation: where it is in the nest, and its keys or indices."""

    path: tuple[str | int, ...]
    keys: tuple[str | int, ...]


def branches(space: gymnasium.Space[Any], path: tuple[str | int, ...] = ()) -> list[Branch]:
    """The Dict and Tuple spaces of an observation space, outermost first."""
    if not isinstance(space, Nest):
        return []
    inner = [branch for key, part in children(space) for branch in branches(part, (*path, key))]
    return [Branch(path, tuple(key for key, _ in children(space))), *inner]


def check_keys(branch: Branch, observation: Any) -> None:
    """Raise ValueError unless the branch of an observation that has all its leaves has no other entries."""
    part = _at(branch.path, observation)
    try:
        count = len(part)
    except TypeError:
        raise ValueError(f"{observation_name(branch.path)} is {type(part).__name__}, expected Dict or Tuple") from None
    if count == len(branch.keys):
        return
    extra = [key for key in part if key not in branch.keys] if isinstance(part, Mapping) else []
    named = f": {', '.join(map(repr, extra))}" if extra else ""
    raise ValueError(
        f"{observation_name(branch.path)} has {count} entries, expected the {len(branch.keys)} of its space{named}"
    )


def observation_name(path: tuple[str | int, ...]) -> str:
    """The name of a part of an observation, e.g. `observation['camera']`; `observation` is the whole."""
    return "observation" + "".join(f"[{key!r}]" for key in path)


def _at(path: tuple[str | int, ...], observation: Any) -> Any:
    """The part of an observation at `path`; ValueError where there is none."""
    for i, key in enumerate(path, 1):
        try:
            observation = observation[key]
        except (KeyError, IndexError, TypeError):
            raise ValueError(f"{observation_name(path[:i])} is missing") from None
    return observation


def write(leaf: Leaf, batch: Array, row: int, observation: Any) -> None:
    """Put the leaf's part of one observation into `batch[row]`; ValueError if it does not fit."""
    if leaf.path:
        observation = _at(leaf.path, observation)
    if isinstance(leaf.space, spaces.Text):
        if not leaf.space.contains(observation):
            raise ValueError(f"{leaf.name} is {repr(observation)[:100]}, expected a text in {leaf.space}")
        observation = hashed_words(observation, leaf.shape[0])
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


def _bounds(space: spaces.Box) -> tuple[Array, Array] | None:
    """What `Leaf.bounds` says."""
    dtype = np.dtype(space.dtype)
    if dtype == np.bool_:
        return None
    if dtype.kind != "f":
        low, high = space.low, space.high
        everything = np.iinfo(dtype)
        if everything.max > VALUE_LIMIT:
            low, high = np.maximum(low, int(max(everything.min, -VALUE_LIMIT))), np.minimum(high, int(VALUE_LIMIT))
        return None if (low <= everything.min).all() and (high >= everything.max).all() else (low, high)
    if not (np.isfinite(space.low).any() or np.isfinite(space.high).any()):
        return None
    limit = min(float(np.finfo(dtype).max), VALUE_LIMIT)
    low, high = (np.asarray(bound, np.float64).clip(-limit, limit) for bound in (space.low, space.high))
    low = low - BOUND_SLACK * np.maximum(1.0, abs(low))
    high = high + BOUND_SLACK * np.maximum(1.0, abs(high))
    return low.clip(-limit, limit).astype(dtype), high.clip(-limit, limit).astype(dtype)


def find_wrong(leaf: Leaf, batch: Array) -> tuple[int, str] | None:
    """The first row of a written batch (B, *shape) with a value that its space does not allow, and why."""
    if leaf.high is not None:
        low = 0 if leaf.start is None else leaf.start
        possible = (batch >= low) & (batch - low < leaf.high)
        expected = f"values from {low} to {leaf.high + low - 1}"
    elif leaf.bounds is not None:
        # Comparisons are False for NaN, and every bound of a float is finite.
        possible = (batch >= leaf.bounds[0]) & (batch <= leaf.bounds[1])
        assert isinstance(leaf.space, spaces.Box)
        lowest, highest = max(leaf.space.low.min(), -VALUE_LIMIT), min(leaf.space.high.max(), VALUE_LIMIT)
        expected = f"finite values from {lowest:g} to {highest:g}"
    elif batch.dtype.kind == "f":
        possible = abs(batch) <= VALUE_LIMIT
        expected = f"finite values from {-VALUE_LIMIT:g} to {VALUE_LIMIT:g}"
    else:
        return None
    if possible.all():
        return None
    row = int(np.argmin(possible.reshape(len(batch), -1).all(axis=1)))
    return row, f"{leaf.name} has {batch[row][~possible[row]].flat[0]}, expected {expected}"


def clip_slight_excess(leaf: Leaf, batch: Array) -> bool:
    """Clip floats of a written batch (B, *shape) that leave their Box by up to SLIGHT, in place; whether any did."""
    if leaf.bounds is None or batch.dtype.kind != "f":
        return False
    low, high = leaf.bounds
    wider = low - SLIGHT * np.maximum(1.0, abs(low)), high + SLIGHT * np.maximum(1.0, abs(high))
    slight = ((batch < low) & (batch >= wider[0])) | ((batch > high) & (batch <= wider[1]))
    slight &= np.isfinite(batch)
    if not slight.any():
        return False
    np.copyto(batch, batch.clip(low, high), where=slight)
    return True


def count_from_zero(leaf: Leaf, batch: Array) -> None:
    """Count a written batch (B, *shape) from 0, in place."""
    if leaf.start is not None:
        batch -= leaf.start
