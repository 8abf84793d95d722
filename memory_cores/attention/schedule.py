"""Which remembered steps and compressed slots a step attends to.

Time t counts the steps of a stream. With memory length n and granularity g, step t attends to itself and to
the steps [b(t), t), where b(t) = g * floor((t - n) / g), not below 0. With g = segment length and aligned
segments this is the schedule of Transformer-XL (Dai et al., 1901.02860, section 3.2); with g = 1 it is an
exact sliding window.

With compression rate c, which divides g, the block of g steps that b(t) moves past becomes g / c compressed
slots. Slot j stands for the steps [jc, (j + 1)c), counted from the start of the stream, and step t attends to
the newest n_cm slots before b(t). With g = segment length and aligned segments this is the schedule of the
Compressive Transformer (Rae et al., 1911.05507, algorithm 1). An episode that begins within a slot's steps
keeps the slot, which then stands for its new steps alone.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from memory_cores.attention.patterns import Run, View

MIN_QUERIES = 128
"""Queries are attended in views of no fewer than this, lest short memories make many small products."""


class Evicted(NamedTuple):
    """The N blocks of g steps that leave the memory during a call, among the C remembered and T new steps."""

    start: int
    """The first of their N * g steps."""
    kept: Tensor
    """(B, N, g) bool, True where a step is of the same episode as the last step of its block."""
    queries_start: int
    """The first of N * g steps: for each block the last g steps before it leaves."""
    queries_kept: Tensor
    """(B, N, g) bool, True where such a step is of the same episode as the last step of the block."""

    def of(self, steps: Tensor) -> Tensor:
        """The leaving blocks (B, N, g, ...) of steps (B, C + T, ...)."""
        leaving = steps[:, self.start : self.start + self.kept[0].numel()]
        return leaving.view(*self.kept.shape, *steps.shape[2:])

    def queries_of(self, steps: Tensor) -> Tensor:
        """For each leaving block the steps (B, N, g, ...) that ask of it, of steps (B, C + T, ...)."""
        return self._replace(start=self.queries_start).of(steps)


class Window(NamedTuple):
    """One call's share of the schedule."""

    views: list[View]
    """Which of the call's compressed slots, memory and steps, in that order, its steps see."""
    num_slots: int
    """Compressed slots that any step of the call may attend to: those of the state and those made in time."""
    first_phase: int
    """The phase of the call's first step."""
    episode: Tensor
    """(B, T) int64, the first step of the episode that each step is in; steps before the call count down from -1."""
    age: Tensor
    """(B,) int64, steps of the episode up to the schedule's span, after the call."""
    phase: Tensor
    """(B,) int64, the phase after the call."""


@dataclass(frozen=True)
class MemorySchedule:
    """`memory_length` steps of memory that move on `granularity` steps at a time, `compression_rate` of which
    become one of `compressed_length` slots."""

    memory_length: int
    granularity: int
    compression_rate: int = 1
    compressed_length: int = 0
    history: int = 0
    """Steps before its own that a step looks at by other means than attention."""

    @property
    def capacity(self) -> int:
        """Steps that must be kept so that every phase finds its context."""
        return self.memory_length + self.granularity - 1

    @property
    def span(self) -> int:
        """The age of an episode from which on every step and slot is of that episode."""
        return max(self.capacity + self.compression_rate * self.compressed_length, self.history)

    def context(self, phase: int) -> int:
        """t - b(t), the steps before t that a step at phase t mod g attends to in a long stream."""
        return self.memory_length + (phase - self.memory_length) % self.granularity

    def slots_in_use(self, age: Tensor, phase: int) -> Tensor:
        """(B,), the compressed slots that a step at `phase` finds in an episode of age (B,)."""
        compressed_steps = (age - self.context(phase)).clamp(min=0)
        return (
            (compressed_steps + self.compression_rate - 1)
            .div(self.compression_rate, rounding_mode="floor")
            .clamp(max=self.compressed_length)
        )

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
        """What each of a call's `steps` steps sees, and the age and phase after it.

        age, phase: (B,) int64 before the call. reset: (B, T) bool. Long calls are cut into several views, so that
        attention costs O(T * memory_length) and not O(T * T).
        """
        first_phase = self.shared_phase(phase)
        time = torch.arange(steps, device=age.device)
        episode = (-age)[:, None].expand(-1, steps)
        if reset is not None:
            episode = torch.where(reset, time, episode).cummax(1).values
        borders = self.borders(first_phase, steps)
        return Window(
            [self.view(start, stop, first_phase, episode) for start, stop in itertools.pairwise(borders)],
            self.compressed_length + self.new_slots(first_phase, steps - 1),
            first_phase,
            episode,
            age=(steps - episode[:, -1]).clamp(max=self.span),
            phase=(phase + steps) % self.granularity,
        )

    def borders(self, first_phase: int, steps: int) -> list[int]:
        """Where the views of a call of `steps` steps begin, and its end.

        They begin where the memory moves on: a view holds all that its first step sees, and that is least there.
        """
        borders = [0]
        for step in range((self.memory_length - first_phase) % self.granularity, steps, self.granularity):
            if step - borders[-1] >= MIN_QUERIES:
                borders.append(step)
        return [*borders, steps]

    def boundary(self, first_phase: int, step: int) -> int:
        """b of a call's step, counted from the call's first step."""
        return step - self.context(first_phase + step)

    def new_slots(self, first_phase: int, steps: int) -> int:
        """Slots that the first `steps` steps of a call add."""
        if not self.compressed_length:
            return 0
        return (self.boundary(first_phase, steps) - self.boundary(first_phase, 0)) // self.compression_rate

    def view(self, start: int, stop: int, first_phase: int, episode: Tensor) -> View:
        """What the steps [start, stop) of a call see. episode: (B, T), where each step's episode begins."""
        query = torch.arange(start, stop, device=episode.device)[:, None]
        context = self.memory_length + (query + first_phase - self.memory_length) % self.granularity
        first = self.boundary(first_phase, start)  # no later step looks further back
        key = torch.arange(first, stop, device=episode.device)
        begin = episode[:, start:stop, None]
        mask = (key <= query) & (key >= query - context) & (key >= begin)
        first_key = self.compressed_length + self.new_slots(first_phase, episode.shape[1] - 1) + self.capacity + first
        steps = Run(slice(first_key, first_key + len(key)), distance=start - stop + 1)
        if not self.compressed_length:
            return View(slice(start, stop), (steps,), mask)

        keys = slice(self.new_slots(first_phase, start), self.compressed_length + self.new_slots(first_phase, stop - 1))
        slot_end = self.slot_ends(first_phase, keys).to(episode.device)
        boundary = query - context
        reach = self.compression_rate * self.compressed_length
        slot_mask = (slot_end <= boundary) & (slot_end > boundary - reach) & (slot_end > begin)
        later = keys.stop - self.compressed_length - keys.start  # slots that only later steps of the view see
        slots = Run(
            keys, self.slot_distance(first_phase + start) - self.compression_rate * later, self.compression_rate
        )
        return View(slice(start, stop), (slots, steps), torch.cat([slot_mask, mask], dim=-1))

    def slot_distance(self, phase: int) -> int:
        """Steps from the last one that the newest compressed slot stands for to a step at `phase`."""
        return self.context(phase) + 1

    def times(self, window: Window, device: torch.device) -> Tensor:
        """(slots + C + T,), the positions of a call's slots, memory and steps, counted from its first step."""
        steps = torch.arange(-self.capacity, window.episode.shape[1], device=device)
        if not self.compressed_length:
            return steps
        last_steps = self.slot_ends(window.first_phase, slice(0, window.num_slots)).to(device) - 1
        return torch.cat([last_steps, steps])

    def slot_ends(self, first_phase: int, slots: slice) -> Tensor:
        """(N,), the step after the last one that each of a call's slots stands for, counted from the call's first."""
        since_boundary = torch.arange(slots.start + 1, slots.stop + 1) - self.compressed_length
        return self.boundary(first_phase, 0) + self.compression_rate * since_boundary

    def evicted(self, age: Tensor, window: Window) -> Evicted:
        """The blocks that leave the memory during the call of `window`. age: (B,) before the call."""
        episode = torch.cat([(-age)[:, None].expand(-1, self.capacity), window.episode], dim=1)  # (B, C + T)
        before = self.boundary(window.first_phase, 0)
        after = self.boundary(window.first_phase, window.episode.shape[1])
        first = torch.arange(before, after, self.granularity, device=age.device)  # (N,)
        last = first + self.granularity - 1
        begin = episode[:, self.capacity + last][..., None]  # (B, N, 1): where the episode of the last step begins
        step = first[:, None] + torch.arange(self.granularity, device=age.device)  # (N, g)
        query = step + self.memory_length
        # A last step before its own episode's begin is of an episode of which the age says nothing any more.
        known = last[:, None] >= begin
        queries_kept = known & (query >= begin) & (episode[:, self.capacity + query] <= last[:, None])
        start = self.capacity + before
        return Evicted(start, step >= begin, start + self.memory_length, queries_kept)


def push(memory: Tensor, inputs: list[Tensor], age: Tensor) -> Tensor:
    """The memory after a call: layer inputs newest last, zeros in slots older than `age`.

    memory: (B, L, C, D). inputs: L tensors (B, T, D). age: (B,), valid slots after the call.
    """
    capacity, steps = memory.shape[2], inputs[0].shape[1]
    kept = torch.stack([x[:, max(steps - capacity, 0) :] for x in inputs], dim=1)
    if steps < capacity:
        kept = torch.cat([memory[:, :, steps:], kept], dim=2)
    elif capacity == 0:
        kept = kept[:, :, :0]
    return clear_unused(kept, age)


def clear_unused(memory: Tensor, age: Tensor) -> Tensor:
    """memory (B, L, C, D) with zeros in slots older than age (B,), so that equal pasts are equal states."""
    slots = torch.arange(memory.shape[2], 0, -1, device=memory.device)
    return memory.masked_fill((slots > age[:, None])[:, None, :, None], 0.0)
