"""When a long-term memory is read and refitted: it takes over the steps that the short-term memory moves past."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from memory_cores.memory_schedule import MemorySchedule, Window


class Turns(NamedTuple):
    """The n refits of one call of T steps, each of the g steps that leave the short-term memory at its time."""

    edges: list[int]
    """0, the steps before which the refits happen, and T: the steps between two edges read one long-term memory."""
    start: int
    """The first of the n * g steps, among the C remembered and T new ones."""
    kept: Tensor
    """(B, n, g) bool, True where a step is of the episode that goes on after the refit."""
    continued: Tensor
    """(B, n) bool, True where that episode began before the g steps, so that the memory holds more of it."""
    refits: Tensor
    """(B, n) int64, the refits of the same episode before this one, less the first."""
    holds: Tensor
    """(B, T) bool, True where a step finds anything in the long-term memory."""
    holds_after: Tensor
    """(B,) bool, the same of the next step, if it is of the same episode."""
    refits_after: Tensor
    """(B,) int64, those before the first one after the call."""

    def leaving(self, context: Tensor) -> Tensor:
        """The steps (B, n, g, D) of the refits among steps (B, C + T, D)."""
        steps = context[:, self.start : self.start + self.kept[0].numel()]
        return steps.view(*self.kept.shape, context.shape[2])


@dataclass(frozen=True)
class LongTermSchedule(MemorySchedule):
    """A memory schedule behind which there is a long-term memory.

    It is refitted whenever the boundary b(t) moves, at absolute multiples of the granularity but for the phase of
    the memory's length. Step t reads what the steps of its own episode before b(t) left there, nothing if there are
    none.
    """

    @property
    def span(self) -> int:
        """One more than the capacity, so that an age always tells whether a step of the episode has left."""
        return self.capacity + 1

    def holds(self, age: Tensor, phase: int) -> Tensor:
        """(B,) bool, True where a step at `phase` of an episode of age (B,) finds anything."""
        return age > self.context(phase)

    def turns(self, age: Tensor, refits: Tensor, window: Window) -> Turns:
        """The refits of the call of `window`. age, refits: (B,) before the call."""
        steps, phase = window.episode.shape[1], window.first_phase
        before, after = self.boundary(phase, 0), self.boundary(phase, steps)
        first = torch.arange(before, after, self.granularity, device=age.device)  # (n,)
        times = [start + self.granularity + self.memory_length for start in range(before, after, self.granularity)]
        begin = window.episode[:, [time - 1 for time in times]]  # (B, n): where the episode began that goes on
        step = first[:, None] + torch.arange(self.granularity, device=age.device)
        continued = begin < first
        counts = []
        for goes_on in continued.unbind(dim=1):
            counts.append(refits)
            refits = torch.where(goes_on, refits + 1, 0)
        time = torch.arange(steps, device=age.device)
        boundary = time - self.memory_length - (phase + time - self.memory_length) % self.granularity
        holds_after = self.holds(window.age, phase + steps)
        return Turns(
            edges=[0, *times, steps],
            start=self.capacity + before,
            kept=step >= begin[..., None],
            continued=continued,
            refits=torch.stack(counts, dim=1) if counts else refits[:, None][:, :0],
            holds=window.episode < boundary,
            holds_after=holds_after,
            refits_after=refits.masked_fill(~holds_after, 0),
        )
