"""When a long-term memory is read and refitted: it takes over the steps that the short-term memory moves past."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from memory_cores.attention.schedule import MemorySchedule, Window


class Turns(NamedTuple):
    """The n refits of one call of T steps, each by the g steps that leave the short-term memory at its time."""

    times: list[int]
    """The steps before which the refits happen, counted from the call's first."""
    start: int
    """The first of the n * g steps, among the C remembered and T new ones."""
    kept: Tensor
    """(B, n, g) bool, True where a step is of the episode of the last step before the refit."""
    continued: Tensor
    """(B, n) bool, True where that episode began before the g steps, so that the memory holds more of it."""
    refits: Tensor
    """(B, n) int64, the refits of the same episode before this one, less the first."""
    holds: Tensor
    """(B, T) bool, True where a step finds anything in the long-term memory."""
    refits_after: Tensor
    """(B,) int64, `refits` of the first refit after the call."""

    def leaving(self, context: Tensor) -> Tensor:
        """The steps (B, n, g, D) of the refits among steps (B, C + T, D)."""
        steps = context[:, self.start : self.start + self.kept[0].numel()]
        return steps.view(*self.kept.shape, context.shape[2])


@dataclass(frozen=True)
class LongTermSchedule(MemorySchedule):
    """A memory schedule behind which there is a long-term memory.

    It is refitted whenever the boundary b(t) moves, just before step t, so that what is refitted for a call's first
    step is part of the call: with aligned segments and a memory of whole segments that is every refit. Step t finds
    what the steps of its own episode before b(t) left there, nothing if there are none.
    """

    @property
    def capacity(self) -> int:
        """As many steps as leave and stay when the boundary moves."""
        return self.memory_length + self.granularity

    @property
    def span(self) -> int:
        """One more than the capacity, so that an age tells whether an episode began before all of these steps."""
        return self.capacity + 1

    def due(self, phase: int) -> bool:
        """Whether there is a refit before a step at `phase`."""
        return (phase - self.memory_length) % self.granularity == 0

    def held(self, age: Tensor, phase: int) -> Tensor:
        """(B,) bool, True where the last step before `phase`, of an episode of age (B,) after it, found anything."""
        return age - 1 > self.context(phase - 1)

    def turns(self, age: Tensor, refits: Tensor, window: Window) -> Turns:
        """The refits of the call of `window`. age, refits: (B,) before the call."""
        steps, phase = window.episode.shape[1], window.first_phase
        times = [time for time in range(steps) if self.due(phase + time)]
        before = torch.cat([-age[:, None], window.episode], dim=1)[:, times]  # (B, n): where the episode began
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
