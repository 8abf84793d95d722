"""When a long-term memory is read, and when it takes in the steps that leave the short-term memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from memory_cores.attention.schedule import MemorySchedule, Window


class Turns(NamedTuple):
    """The R refits in one call of T steps, each of which takes in the G steps that leave the short-term memory then."""

    times: list[int]
    """The steps before which the refits happen, counted from the call's first."""
    start: int
    """The first of the R * G steps, among the C remembered and T new ones."""
    kept: Tensor
    """(B, R, G) bool, True where a step belongs to the episode of the last step before the refit."""
    continued: Tensor
    """(B, R) bool, True where that episode began before the G steps, so that the memory holds more of it."""
    refits: Tensor
    """(B, R) int64, the refits of the same episode before this one, the first not counted."""
    holds: Tensor
    """(B, T) bool, True where a step finds something in the long-term memory."""
    refits_after: Tensor
    """(B,) int64, `refits` of the first refit after the call."""

    def blocks_of(self, context: Tensor) -> Tensor:
        """The blocks (B, R, G, D) that enter at the refits, taken from steps (B, C + T, D)."""
        steps = context[:, self.start : self.start + self.kept[0].numel()]
        return steps.view(*self.kept.shape, context.shape[2])


@dataclass(frozen=True)
class LongTermSchedule(MemorySchedule):
    """A memory schedule with a long-term memory behind it.

    The long-term memory is refitted whenever the boundary b(t) moves, just before step t. The refit before a call's
    first step is thus part of the call; with aligned segments and a memory of whole segments every refit is such a one.
    Step t finds what the steps of its own episode before b(t) left there, and nothing if there are none.
    """

    @property
    def capacity(self) -> int:
        """C, the steps that stay in the memory when the boundary moves and those that leave it."""
        return self.memory_length + self.granularity

    @property
    def span(self) -> int:
        """One more than the capacity, so that an age tells whether an episode began before all of these steps."""
        return self.capacity + 1

    def refits_before(self, phase: int) -> bool:
        """Whether the long-term memory is refitted before a step at `phase`."""
        return (phase - self.memory_length) % self.granularity == 0

    def finds_memory(self, age: Tensor, phase: int) -> Tensor:
        """(B,) bool, True where the step before `phase`, after which the episode has age (B,), found something."""
        return age - 1 > self.context(phase - 1)

    def turns(self, age: Tensor, refits: Tensor, window: Window) -> Turns:
        """The refits in the call of `window`. age, refits: (B,) before the call."""
        steps, phase = window.episode.shape[1], window.first_phase
        times = [time for time in range(steps) if self.refits_before(phase + time)]
        before = torch.cat([-age[:, None], window.episode], dim=1)[:, times]  # (B, R): where the episode began
        first = torch.tensor(times, dtype=torch.int64, device=age.device) - self.capacity
        step = first[:, None] + torch.arange(self.granularity, device=age.device)
        continued = before < first
        counts = []
        for goes_on in continued.unbind(dim=1):
            counts.append(refits)
            refits = torch.where(goes_on, refits + 1, 0)
        time = torch.arange(steps, device=age.device)
        boundary = time - self.memory_length - (phase + time - self.memory_length) % self.granularity
        holds = window.episode < boundary
        return Turns(
            times=times,
            start=times[0] if times else 0,
            kept=step >= before[..., None],
            continued=continued,
            refits=torch.stack(counts, dim=1) if counts else refits[:, None][:, :0],
            holds=holds,
            refits_after=refits.masked_fill(~holds[:, -1], 0),
        )
