"""Batches of observations, one array (B, *leaf shape) a leaf of the observation space."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from envs.episodes import Forgive
from envs.spaces import Array, branches, check_keys, clip_slight_excess, count_from_zero, find_wrong, leaves, write


class Observations:
    """Makes, fills and checks batches of the observations of `num_envs` environments."""

    def __init__(self, space: gymnasium.Space[Any], num_envs: int, forgive: Forgive | None = None) -> None:
        """With `forgive`, floats that are slightly out of bounds are clipped to them."""
        self.num_envs, self.forgive = num_envs, forgive
        self.leaves = leaves(space)
        self.branches = branches(space)
        self.plain = None if self.leaves[0].path else self.leaves[0]

    def empty(self) -> list[Array]:
        """A new batch."""
        return [np.empty((self.num_envs, *leaf.shape), leaf.dtype) for leaf in self.leaves]

    def named(self, batch: list[Array]) -> dict[str, Array]:
        """The batch by the names of the leaves."""
        return {leaf.name: array for leaf, array in zip(self.leaves, batch, strict=True)}

    def write(self, i: int, batch: list[Array], observation: Any) -> None:
        """Put an observation into row `i`; raises ValueError or OverflowError where it does not fit."""
        plain = self.plain
        if (
            plain is not None
            and type(observation) is np.ndarray
            and observation.shape == plain.shape
            and observation.dtype is plain.dtype
        ):
            batch[0][i] = observation  # what the general way below does, faster
            return
        for leaf, array in zip(self.leaves, batch, strict=True):
            write(leaf, array, i, observation)
        for branch in self.branches:
            check_keys(branch, observation)

    def write_nothing(self, i: int, batch: list[Array]) -> None:
        """Put into row `i` what a row shows that has no environment."""
        for leaf, array in zip(self.leaves, batch, strict=True):
            array[i] = leaf.nothing

    def first_wrong(self, batch: list[Array]) -> tuple[int, str] | None:
        """The first row of a written batch whose observation is not possible, and why."""
        for leaf, array in zip(self.leaves, batch, strict=True):
            if self.forgive is not None and clip_slight_excess(leaf, array):
                self.forgive(f"{leaf.name} is slightly out of bounds")
            wrong = find_wrong(leaf, array)
            if wrong is not None:
                return wrong
        return None

    def count_from_zero(self, batch: list[Array]) -> None:
        """Shift the integers of Discrete and MultiDiscrete leaves, in place."""
        for leaf, array in zip(self.leaves, batch, strict=True):
            count_from_zero(leaf, array)
