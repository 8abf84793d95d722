"""Attention of each step to the most recent members of its group: a cluster (Roy et al., 2003.05997) or a hash bucket
(Kitaev et al., 2001.04451).

Steps are sorted by group and time, so that what a step sees is a band. A step's group must depend on that step alone;
then nothing that comes later changes what it sees.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from memory_cores.attention.band import Others, band_attention, join, window_chunks


def grouped_attention(
    key: Tensor, gain: Tensor, value: Tensor, group: Tensor, begin: Tensor, window: int, num_queries: int
) -> Tensor:
    """The attended values (H, B, T, W) of the last T = `num_queries` steps, whose queries are gain * key.

    key, value: (H, B, N, W) of N steps in a row. gain: broadcastable to (H, B, N, 1). group: (rounds, H, B, N) int64,
    not below 0, the group of each step in each round. begin: (B, N) int64, the first step that each step may see. A
    step sees the last `window` members of its group before it, in any of the rounds, and itself only where it sees no
    other.
    """
    rounds, heads, batch, steps = group.shape
    time = torch.arange(steps, device=key.device)
    code, order = (group * steps + time).flatten(1, 2).sort(dim=-1)  # (rounds, H B, N)
    rank = torch.empty_like(order).scatter_(-1, order, time.expand_as(order))
    begin = begin.expand(heads, -1, -1).flatten(0, 1)
    earliest = begin.expand(rounds, -1, -1).gather(-1, order)
    first = torch.searchsorted(code, code - code % steps + earliest)
    first = torch.maximum(first, time - window)
    is_alone = (first == time).gather(-1, rank).all(dim=0)  # (groups, N): it sees no other in any round
    last = (time - 1).expand_as(first).clone()
    last[0] += is_alone.gather(-1, order[0])

    flat_key, flat_value = key.to(value.dtype).flatten(0, 1), value.flatten(0, 1)
    flat_gain = gain.to(value.dtype).expand(*key.shape[:3], 1).flatten(0, 1)
    chunks = window_chunks(steps, steps, window)
    contexts, log_sums = [], []
    for turn in range(rounds):
        there, back = order[turn], rank[turn]
        keys, values = _Permute.apply(flat_key, there, back), _Permute.apply(flat_value, there, back)
        query = keys * flat_gain.gather(1, there[..., None])
        others = None
        if turn:  # a pair that an earlier round saw is not seen again (appendix A)
            place = rank[:turn].gather(-1, there.expand(turn, -1, -1))  # in each earlier round's order
            others = Others(place, first[:turn].gather(-1, place), last[:turn].gather(-1, place))
        context, log_sum = band_attention(query, keys, values, first[turn], last[turn], chunks, others)
        contexts.append(_Permute.apply(context, back, there)[:, steps - num_queries :])
        log_sums.append(log_sum.gather(1, back)[:, steps - num_queries :])
    joined = contexts[0] if rounds == 1 else join(torch.stack(contexts), torch.stack(log_sums))
    return torch.unflatten(joined, 0, (heads, batch))


class _Permute(torch.autograd.Function):
    """Rows (groups, N, W) in another order (groups, N); the gradient goes back by the inverse order, with no sums."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(inverse)
        return permute(x, order)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (inverse,) = ctx.saved_tensors
        return permute(gradients[0], inverse), None, None


def permute(x: Tensor, order: Tensor) -> Tensor:
    """The rows of x (groups, N, W) at order (groups, N)."""
    groups, steps, width = x.shape
    first = steps * torch.arange(groups, device=x.device)[:, None]
    return x.reshape(-1, width).index_select(0, (order + first).flatten()).view_as(x)
