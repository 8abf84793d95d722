"""Where attention looks: shares of compressed slots, memory and present by age (Rae et al., 1911.05507, figure 2)."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from memory_cores.attention.attention import Observe
from memory_cores.attention.base import MemoryTransformer
from memory_cores.attention.patterns import View
from memory_cores.attention.schedule import MemorySchedule

PARTS = ("compressed", "memory", "present")
BUCKETS = 6
"""Equal buckets of each part, the oldest first."""


class AttentionBuckets(NamedTuple):
    """Attention in N turns of the memory schedule, of all rows, averaged over heads and over the queries of a turn."""

    shares: Tensor
    """(N, L, 3 * BUCKETS), which sum to 1 over the buckets of all parts."""
    full: bool
    """Whether these are the turns with a full memory; if there was no such turn, it is False and these are all
    turns."""


@torch.no_grad()
def attention_buckets(core: MemoryTransformer, x: Tensor, reset: Tensor) -> AttentionBuckets:
    """Run B streams from the initial state and sum up where their attention goes.

    x: (B, T, D), reset: (B, T) bool; steps after the last whole turn of the schedule are not run. The present is a
    query's own turn, and the memory is the uncompressed steps before it. Raises ValueError where T is less than a turn.
    """
    schedule = core.schedule
    turns = x.shape[1] // schedule.granularity
    if not turns:
        raise ValueError(f"x has {x.shape[1]} steps, expected at least one turn of {schedule.granularity}")
    watches = [Watch(schedule) for _ in range(core.num_layers)]
    attentions = [block.get_submodule("attention") for block in core.blocks]
    hooks = [
        attention.register_forward_pre_hook(watch.attach) for attention, watch in zip(attentions, watches, strict=True)
    ]
    shares, full = [], []
    state = core.initial_state(x.shape[0], x.device)
    try:
        for turn in range(turns):
            steps = slice(turn * schedule.granularity, (turn + 1) * schedule.granularity)
            full.append((state["age"] >= schedule.span) & ~reset[:, steps].any(dim=1))
            state = core(x[:, steps], state, reset[:, steps]).state
            shares.append(torch.stack([watch.take() for watch in watches], dim=1))
    finally:
        for hook in hooks:
            hook.remove()
    every, is_full = torch.cat(shares), torch.cat(full)
    return AttentionBuckets(every[is_full], True) if is_full.any() else AttentionBuckets(every, False)


class Watch:
    """Sums one layer's attention weights into buckets, call after call."""

    def __init__(self, schedule: MemorySchedule) -> None:
        self.schedule = schedule
        self.time = 0
        self.sums: Tensor | None = None

    def attach(self, attention: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments of a call of an attention module, with this watch added to the observer they may hold."""
        other: Observe | None = arguments[4] if len(arguments) > 4 else None

        def observe(view: View, weights: Tensor) -> None:
            if other is not None:
                other(view, weights)
            self.add(view, weights)

        return (*arguments[:4], observe, *arguments[5:])

    def add(self, view: View, weights: Tensor) -> None:
        """Count the weights (B, H, S, K) of the next S queries of the streams."""
        buckets = self.buckets(view.stop - view.start, weights.shape[-1] - view.num_slots, view.num_slots)
        flat = weights.float().mean(dim=1).flatten(1)  # (B, S K)
        sums = flat.new_zeros(len(flat), len(PARTS) * BUCKETS)
        sums.scatter_add_(1, buckets.flatten().to(flat.device).expand(len(flat), -1), flat)
        self.sums = sums if self.sums is None else self.sums + sums
        self.time += view.stop - view.start

    def buckets(self, queries: int, keys: int, slots: int) -> Tensor:
        """(S, K) int64, the bucket of each key for the next S queries; the last of `keys` steps is the last query."""
        schedule = self.schedule
        query = torch.arange(queries)[:, None]
        phase = (self.time + query) % schedule.granularity
        context = schedule.memory_length + (phase - schedule.memory_length) % schedule.granularity
        begin = query - phase  # where the present begins
        key = torch.arange(queries - keys, queries)
        present = bucket(key - begin, torch.full_like(begin, schedule.granularity))
        memory_length = context - phase
        memory = bucket(key - begin + memory_length, memory_length)
        steps = torch.where(key >= begin, 2 * BUCKETS + present, BUCKETS + memory)
        boundary = query - context
        oldest = (boundary - boundary[0]).div(schedule.compression_rate, rounding_mode="floor")
        compressed = bucket(torch.arange(slots) - oldest, torch.full_like(begin, schedule.compressed_length))
        return torch.cat([compressed, steps], dim=1)

    def take(self) -> Tensor:
        """The shares (B, 3 * BUCKETS) since `take` was last called."""
        assert self.sums is not None
        sums, self.sums = self.sums, None
        return sums / sums.sum(dim=1, keepdim=True)


def bucket(place: Tensor, length: Tensor) -> Tensor:
    """(S, K) int64, which of BUCKETS equal parts of length (S, 1) each place (S, K) or (K,) lies in.

    Places outside, which no query sees, are counted to the first or last part.
    """
    return (BUCKETS * place).div(length.clamp(min=1), rounding_mode="floor").clamp(0, BUCKETS - 1)
