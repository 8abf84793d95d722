"""Which keys the queries of a call see: runs of keys in a row, or keys gathered one by one.

A pattern is a list of views. It says nothing of positions (`positions`) nor of how a view is computed (`attention`), so
a window, compressed slots, the cells of a sparse pattern, and the members of a cluster or of a hash bucket differ only
in the views that they make.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Run(NamedTuple):
    """Consecutive keys whose positions lie `stride` steps apart, the oldest first."""

    keys: slice
    """Where they are among all keys; a slice with a step takes every step-th key."""
    distance: int = 0
    """Steps from the last of the keys to the first query; negative where the key is the later one."""
    stride: int = 1

    @property
    def length(self) -> int:
        """How many keys there are."""
        return len(range(self.keys.start, self.keys.stop, self.keys.step or 1))


class View(NamedTuple):
    """Queries that are computed in one product, and the keys that they see."""

    queries: slice | Tensor
    """Consecutive queries; or int64, broadcastable to (H, B, S), the queries of each head and row."""
    keys: tuple[Run, ...] | Tensor
    """Runs, one after the other; or int64, broadcastable to (H, B, K), the keys of each head and row."""
    mask: Tensor
    """(B, S, K) or (H, B, S, K) bool, True where the key may be attended to. Every query must see a key."""
    distances: Tensor | None = None
    """int64, broadcastable to (H, B, S, K), steps from each key to each query, for relative positions; None where
    queries are consecutive and keys are runs, which give the distances."""

    @property
    def row(self) -> slice:
        """The slice of consecutive queries."""
        assert isinstance(self.queries, slice)
        return self.queries

    @property
    def start(self) -> int:
        """The first of consecutive queries."""
        return int(self.row.start)

    @property
    def stop(self) -> int:
        """The end of consecutive queries."""
        return int(self.row.stop)

    @property
    def runs(self) -> tuple[Run, ...]:
        """The runs of keys."""
        assert isinstance(self.keys, tuple)
        return self.keys

    @property
    def num_slots(self) -> int:
        """How many keys lie in the runs before the last one; in a memory schedule these are the compressed slots."""
        return sum(run.length for run in self.runs[:-1])


def take(entries: Tensor, at: slice | Tensor | tuple[Run, ...]) -> Tensor:
    """The entries (H, B, K, W) at `at`, of all entries (H, B, N, W); no copy is made where they are consecutive."""
    if isinstance(at, slice):
        return entries[:, :, at]
    if isinstance(at, Tensor):
        index = at.expand(*entries.shape[:2], -1)[..., None].expand(-1, -1, -1, entries.shape[3])
        return entries.gather(2, index)
    slices = [run.keys for run in at]
    joined = [slices[0]]
    for following in slices[1:]:
        before = joined[-1]
        if before.stop == following.start and not before.step and not following.step:
            joined[-1] = slice(before.start, following.stop)
        else:
            joined.append(following)
    parts = [entries[:, :, part] for part in joined]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


def put(views: list[View], contexts: list[Tensor], num_queries: int) -> Tensor:
    """The contexts (H, B, S, W) of each view, put at the places (H, B, T, W) of its queries."""
    joined = contexts[0] if len(contexts) == 1 else torch.cat(contexts, dim=2)
    if isinstance(views[0].queries, slice):
        return joined
    heads, batch, _, width = joined.shape
    index = torch.cat([view.queries.expand(heads, batch, -1) for view in views if isinstance(view.queries, Tensor)], 2)
    return joined.new_zeros(heads, batch, num_queries, width).scatter(2, index[..., None].expand_as(joined), joined)
