"""Which remembered steps a step attends to.

Time t counts the steps of a stream. With memory length n and granularity g, step t attends to itself and to
the steps [b(t), t), where b(t) = g * floor((t - n) / g), not below 0. With g = segment length and aligned
segments this is the schedule of Transformer-XL (Dai et al., 1901.02860, section 3.2); with g = 1 it is an
exact sliding window.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

MIN_QUERY_BLOCK = 128
"""Queries are attended in blocks no shorter than this, lest short memories make many small products."""


class QueryBlock(NamedTuple):
    """Steps [start, stop) of a call and which of the keys [start, stop + capacity) they see."""

    start: int
    stop: int
    mask: Tensor
    """(B, 1, stop - start, capacity + stop - start) bool, True where the key may be attended to."""


class Window(NamedTuple):
    """One call's share of the schedule."""

    blocks: list[QueryBlock]
    age: Tensor
    """(B,) int64, valid slots of the memory after the call."""
    phase: Tensor
    """(B,) int64, the phase after the call."""


@dataclass(frozen=True)
class MemorySchedule:
    """The schedule of `memory_length` steps of memory that moves on `granularity` steps at a time."""

    memory_length: int
    granularity: int

    @property
    def capacity(self) -> int:
        """Steps that must be kept so that every phase finds its context."""
        return self.memory_length + self.granularity - 1

    def context(self, phase: int) -> int:
        """t - b(t), the steps before t that a step at phase t mod g attends to in a long stream."""
        return self.memory_length + (phase - self.memory_length) % self.granularity

    def shared_phase(self, phase: Tensor) -> int:
        """The one phase of all rows of phase (B,); raises ValueError where rows differ."""
        if self.granularity == 1:
            return 0
        phases = set(phase.tolist())
        if len(phases) != 1:
            raise ValueError(f"rows of one batch must share a phase of the memory schedule, found {sorted(phases)}")
        (shared,) = phases
        if not 0 <= shared < self.granularity:
            raise ValueError(f"state['phase'] is {shared}, expected 0 to {self.granularity - 1}")
        return int(shared)

    def window(self, age: Tensor, phase: Tensor, reset: Tensor | None, steps: int) -> Window:
        """The attention masks of a call of `steps` steps, in query blocks, and the age and phase after it.

        age, phase: (B,) int64 before the call. reset: (B, T) bool. Long calls are cut into blocks of about
        the memory's capacity, so that attention costs O(T * capacity) and not O(T * T).
        """
        shared = self.shared_phase(phase)
        time = torch.arange(steps, device=age.device)
        earliest = (-age)[:, None].expand(-1, steps)  # (B, T): first step of the episode that each step is in
        if reset is not None:
            earliest = torch.where(reset, time, earliest).cummax(1).values
        context = self.memory_length + (time + shared - self.memory_length) % self.granularity
        block = max(self.capacity, MIN_QUERY_BLOCK)
        blocks = []
        for start in range(0, steps, block):
            stop = min(start + block, steps)
            query = time[start:stop, None]
            key = torch.arange(start - self.capacity, stop, device=age.device)
            scheduled = (key <= query) & (key >= query - context[start:stop, None])
            mask = scheduled & (key >= earliest[:, start:stop, None])
            blocks.append(QueryBlock(start, stop, mask[:, None]))
        return Window(
            blocks,
            age=(steps - earliest[:, -1]).clamp(max=self.capacity),
            phase=(phase + steps) % self.granularity,
        )


def push(memory: Tensor, inputs: list[Tensor], age: Tensor) -> Tensor:
    """The memory after a call: layer inputs newest last, zeros in slots older than `age`, no gradient.

    memory: (B, L, C, D). inputs: L tensors (B, T, D). age: (B,), valid slots after the call.
    """
    capacity, steps = memory.shape[2], inputs[0].shape[1]
    kept = torch.stack([x.detach()[:, max(steps - capacity, 0) :] for x in inputs], dim=1)
    if steps < capacity:
        kept = torch.cat([memory[:, :, steps:], kept], dim=2)
    elif capacity == 0:
        kept = kept[:, :, :0]
    return clear_unused(kept, age)


def clear_unused(memory: Tensor, age: Tensor) -> Tensor:
    """memory (B, L, C, D) with zeros in slots older than age (B,), so that equal pasts are equal states."""
    slots = torch.arange(memory.shape[2], 0, -1, device=memory.device)
    return memory.masked_fill((slots > age[:, None])[:, None, :, None], 0.0)
