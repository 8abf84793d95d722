"""Which remembered steps and compressed slots a step attends to.

Time t counts the steps of a stream. With memory length n_m and granularity g, step t attends to itself and to
the steps [b(t), t), where b(t) = g * floor((t - n_m) / g), not below 0. With g = segment length and aligned
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
"""Fewest queries in a view, unless the call is shorter. Without it a short memory would make many small products."""


class Eviction(NamedTuple):
    """The R blocks of G steps that leave the memory during a call, among the C remembered and T new steps."""

    start: int
    """The first of their R * G steps."""
    kept: Tensor
    """(B, R, G) bool, True where a step belongs to the same episode as the last step of its block."""
    queries_start: int
    """The first of R * G query steps: for each block the last G steps before it leaves."""
    queries_kept: Tensor
    """(B, R, G) bool, True where such a query step belongs to the same episode as the last step of the block."""

    def of(self, steps: Tensor) -> Tensor:
        """The blocks (B, R, G, ...) that leave, taken from steps (B, C + T, ...)."""
        leaving = steps[:, self.start : self.start + self.kept[0].numel()]
        return leaving.view(*self.kept.shape, *steps.shape[2:])

    def queries_of(self, steps: Tensor) -> Tensor:
        """For each block that leaves, its query steps (B, R, G, ...), taken from steps (B, C + T, ...)."""
        return self._replace(start=self.queries_start).of(steps)


class Timing(NamedTuple):
    """When the steps of a call take place."""

    first_phase: int
    """The phase of the call's first step."""
    episode: Tensor
    """(B, T) int64, the first step of the episode that each step belongs to; steps before the call are -1, -2, ...."""
    age: Tensor
    """(B,) int64, steps of the episode after the call, at most the schedule's span."""
    phase: Tensor
    """(B,) int64, the phase after the call."""


class Window(NamedTuple):
    """The schedule of one call."""

    views: list[View]
    """Which keys the call's steps see; keys are compressed slots, memory and the call's steps, in that order."""
    num_slots: int
    """Compressed slots that any step of the call may attend to: those of the state and those made during the call."""
    first_phase: int
    """As in `Timing`, like the fields that follow."""
    episode: Tensor
    """(B, T) int64."""
    age: Tensor
    """(B,) int64."""
    phase: Tensor
    """(B,) int64."""


@dataclass(frozen=True)
class MemorySchedule:
    """A memory of `memory_length` steps that moves on `granularity` steps at a time; every `compression_rate` of the
    steps that leave it become one of `compressed_length` slots."""

    memory_length: int
    granularity: int
    compression_rate: int = 1
    compressed_length: int = 0
    history: int = 0
    """Earlier steps that a step reads by other means than attention, such as a convolution."""

    @property
    def capacity(self) -> int:
        """C, the steps that must be kept so that every phase finds its context."""
        return self.memory_length + self.granularity - 1

    @property
    def span(self) -> int:
        """The age from which on everything that is remembered belongs to the present episode."""
        return max(self.capacity + self.compression_rate * self.compressed_length, self.history)

    def context(self, phase: int) -> int:
        """t - b(t), the steps before t that a step at phase t mod g attends to in a long stream."""
        return self.memory_length + (phase - self.memory_length) % self.granularity

    def slots_in_use(self, age: Tensor, phase: int) -> Tensor:
        """(B,) int64, how many compressed slots a step at `phase` finds in an episode of age (B,)."""
        compressed_steps = (age - self.context(phase)).clamp(min=0)
        return (
            (compressed_steps + self.compression_rate - 1)
            .div(self.compression_rate, rounding_mode="floor")
            .clamp(max=self.compressed_length)
        )

    def shared_phase(self, phase: Tensor) -> int:
        """The phase that all rows of phase (B,) share; raises ValueError where they differ."""
        if self.granularity == 1:
            return 0
        phases = set(phase.tolist())
        if len(phases) != 1:
            raise ValueError(f"rows of one batch must share a phase of the memory schedule, found {sorted(phases)}")
        (shared,) = phases
        if not 0 <= shared < self.granularity:
            raise ValueError(f"state['phase'] is {shared}, expected 0 to {self.granularity - 1}")
        return int(shared)

    def timing(self, age: Tensor, phase: Tensor, reset: Tensor | None, steps: int) -> Timing:
        """When the `steps` steps of a call take place. age, phase: (B,) int64 before the call. reset: (B, T) bool."""
        time = torch.arange(steps, device=age.device)
        episode = (-age)[:, None].expand(-1, steps)
        if reset is not None:
            episode = torch.where(reset, time, episode).cummax(1).values
        return Timing(
            self.shared_phase(phase),
            episode,
            age=(steps - episode[:, -1]).clamp(max=self.span),
            phase=(phase + steps) % self.granularity,
        )

    def window(self, age: Tensor, phase: Tensor, reset: Tensor | None, steps: int) -> Window:
        """What each of a call's `steps` steps sees, and the age and phase after it.

        age, phase: (B,) int64 before the call. reset: (B, T) bool. Long calls are cut into several views, so that
        attention costs O(T * memory_length) and not O(T * T).
        """
        timing = self.timing(age, phase, reset, steps)
        first_phase, episode = timing.first_phase, timing.episode
        borders = self.borders(first_phase, steps)
        views = [self.view(start, stop, first_phase, episode) for start, stop in itertools.pairwise(borders)]
        return Window(views, self.compressed_length + self.new_slots(first_phase, steps - 1), *timing)

    def borders(self, first_phase: int, steps: int) -> list[int]:
        """Where the views of a call of `steps` steps begin, and its end.

        Views begin where the memory moves on: a view holds everything that its first step sees, which is fewest keys
        there.
        """
        borders = [0]
        for step in range((self.memory_length - first_phase) % self.granularity, steps, self.granularity):
            if step - borders[-1] >= MIN_QUERIES:
                borders.append(step)
        return [*borders, steps]

    def boundary(self, first_phase: int, step: int) -> int:
        """b(t) of a step of a call; both are counted from the call's first step."""
        return step - self.context(first_phase + step)

    def new_slots(self, first_phase: int, steps: int) -> int:
        """How many slots the first `steps` steps of a call add."""
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
        """The distance in steps from a step at `phase` back to the last step of the newest compressed slot."""
        return self.context(phase) + 1

    def times(self, window: Window, device: torch.device) -> Tensor:
        """(slots + C + T,), the positions of a call's slots, memory and steps, counted from its first step."""
        steps = torch.arange(-self.capacity, window.episode.shape[1], device=device)
        if not self.compressed_length:
            return steps
        last_steps = self.slot_ends(window.first_phase, slice(0, window.num_slots)).to(device) - 1
        return torch.cat([last_steps, steps])

    def slot_ends(self, first_phase: int, slots: slice) -> Tensor:
        """(N,), for each of N slots of a call the step after its last one, counted from the call's first step."""
        since_boundary = torch.arange(slots.start + 1, slots.stop + 1) - self.compressed_length
        return self.boundary(first_phase, 0) + self.compression_rate * since_boundary

    def eviction(self, age: Tensor, window: Window) -> Eviction:
        """The blocks that leave the memory during the call of `window`. age: (B,) before the call."""
        episode = torch.cat([(-age)[:, None].expand(-1, self.capacity), window.episode], dim=1)  # (B, C + T)
        before = self.boundary(window.first_phase, 0)
        after = self.boundary(window.first_phase, window.episode.shape[1])
        first = torch.arange(before, after, self.granularity, device=age.device)  # (R,)
        last = first + self.granularity - 1
        begin = episode[:, self.capacity + last][..., None]  # (B, R, 1): where the episode of the last step begins
        step = first[:, None] + torch.arange(self.granularity, device=age.device)  # (R, G)
        query = step + self.memory_length
        # A last step before that beginning is of an older episode, whose length is no longer known.
        known = last[:, None] >= begin
        queries_kept = known & (query >= begin) & (episode[:, self.capacity + query] <= last[:, None])
        start = self.capacity + before
        return Eviction(start, step >= begin, start + self.memory_length, queries_kept)


def push(memory: Tensor, inputs: list[Tensor], age: Tensor) -> Tensor:
    """The memory after a call: layer inputs, newest last, zeros at steps before the episode.

    memory: (B, L, C, D). inputs: L tensors (B, T, D). age: (B,), steps of the
    episode after the call.
    """
    capacity, steps = memory.shape[2], inputs[0].shape[1]
    kept = torch.stack([x[:, max(steps - capacity, 0) :] for x in inputs], dim=1)
    if steps < capacity:
        kept = torch.cat([memory[:, :, steps:], kept], dim=2)
    elif capacity == 0:
        kept = kept[:, :, :0]
    return clear_unused(kept, age)


def clear_unused(memory: Tensor, age: Tensor) -> Tensor:
    """memory (B, L, C, D) with zeros in all but the newest age (B,) places, so that equal pasts give equal states."""
    slots = torch.arange(memory.shape[2], 0, -1, device=memory.device)
    return memory.masked_fill((slots > age[:, None])[:, None, :, None], 0.0)
