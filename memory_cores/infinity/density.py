"""Where in its long-term memory an infinity-former attends, for reports to draw."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from memory_cores.core import State
from memory_cores.infinity.core import Infinity


class LongTermDensities(NamedTuple):
    """The densities of the queries of one call, and the points at which their memories were sampled."""

    mean: Tensor
    """(B, L, H, T), places in the signal, from 0, the oldest, to 1, the newest."""
    deviation: Tensor
    """(B, L, H, T), the standard deviations."""
    holds: Tensor
    """(B, T) bool, True where a step found a memory; elsewhere the densities have no meaning."""
    turns: list[int]
    """The steps before which the memories were refitted."""
    points: Tensor | None
    """(B, L, R, P), where the old signals were sampled at each of the R turns; None if memories are not sticky."""


@torch.no_grad()
def long_term_densities(core: Infinity, x: Tensor, state: State, reset: Tensor | None = None) -> LongTermDensities:
    """The densities of a call of `core` with x (B, T, D) from `state`."""
    _, recalls = core.recall(x, state, reset)
    turns = recalls[0].turns
    points = None
    if core.sticky:
        empty = x.new_zeros(x.shape[0], 0, core.signal.num_samples, dtype=torch.float64)
        points = torch.stack([torch.cat([empty, *(p[:, None] for p in recall.points)], 1) for recall in recalls], 1)
    return LongTermDensities(
        mean=torch.stack([recall.density.mean for recall in recalls], dim=1),
        deviation=torch.stack([recall.density.variance.sqrt() for recall in recalls], dim=1),
        holds=turns.holds,
        turns=turns.times,
        points=points,
    )
