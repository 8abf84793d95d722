"""The steps of a call that have not halted, the only ones for which a depth step is computed."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from memory_cores.attention.attention import Attention
from memory_cores.attention.patterns import View
from memory_cores.attention.positions import RelativePositions, RotaryPositions

GATHER_BELOW = 0.7
"""Below this active fraction, gather and compute the active steps only; above it, compute all."""


class ActiveSteps(NamedTuple):
    """The steps for which a block is computed: the active ones of a call, A in each row, or all T (then A is T).

    Rows with fewer than A active steps are filled up with others, whose results do not count.
    """

    active: Tensor
    """(B, T) bool, the steps whose results count."""
    views: list[View]
    """What they attend to; the queries are those of `steps` where that is given."""
    steps: Tensor | None = None
    """(B, A) int64, the steps of each row; all if None."""

    @property
    def none(self) -> bool:
        """Whether no step of any row is active."""
        return self.steps is not None and self.steps.shape[1] == 0

    def gather(self, x: Tensor) -> Tensor:
        """(B, T, ...) -> (B, A, ...)."""
        if self.steps is None:
            return x
        index = self.steps.view(*self.steps.shape, *[1] * (x.dim() - 2))
        return x.gather(1, index.expand(-1, -1, *x.shape[2:]))

    def scatter(self, old: Tensor, computed: Tensor) -> Tensor:
        """old (B, T, ...), with computed (B, A, ...) in place of the active steps."""
        active = self.active.view(*self.active.shape, *[1] * (old.dim() - 2))
        computed = computed.to(old.dtype)
        if self.steps is None:
            return torch.where(active, computed, old)
        index = self.steps.view(*self.steps.shape, *[1] * (old.dim() - 2))
        kept = torch.where(self.gather(active), computed, self.gather(old))
        return old.scatter(1, index.expand(-1, -1, *old.shape[2:]), kept)

    def attend(
        self, attention: Attention, x: Tensor, memory: Tensor, positions: RelativePositions | RotaryPositions | None
    ) -> Tensor:
        """attention(x, memory, views, positions) at these steps, (B, A, D). x: (B, T, D). memory: (B, M, D)."""
        if self.steps is None:
            every: Tensor = attention(x, memory, self.views, positions)
            return every
        at_steps = None if positions is None else positions.at(self.steps)
        return attention.at_steps(self.gather(x), x, memory, self.views, at_steps)


def find_active(active: Tensor, views: list[View]) -> ActiveSteps:
    """The steps to compute so that all those where active (B, T) are included, and what they see of a call's views."""
    counts = torch.stack([active[:, view.queries].sum(dim=1).amax() for view in views]).tolist()
    if sum(counts) >= GATHER_BELOW * active.shape[1]:
        return ActiveSteps(active, views)
    steps, views_at = [], []
    start = 0
    for view, count in zip(views, counts, strict=True):
        active_first = active[:, view.queries].int().argsort(dim=1, descending=True, stable=True)
        rows = active_first[:, :count]  # (B, A) of the view's queries
        steps.append(view.start + rows)
        if count:
            views_at.append(view_of_rows(view, rows, slice(start, start + count)))
        start += count
    return ActiveSteps(active, views_at, torch.cat(steps, dim=1))


def view_of_rows(view: View, rows: Tensor, queries: slice) -> View:
    """What the queries rows (B, A) of a view see; `queries` are their places among the gathered steps."""
    (run,) = view.runs
    mask = view.mask.expand(rows.shape[0], -1, -1).gather(1, rows[..., None].expand(-1, -1, run.length))
    key = torch.arange(run.length, device=rows.device)
    distances = rows[..., None] + run.distance + (run.length - 1 - key) * run.stride
    return View(queries, view.keys, mask, distances)
