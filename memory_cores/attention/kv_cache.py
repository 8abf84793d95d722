"""Cached keys and values of one layer, from which single steps attend."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from memory_cores.attention.attention import MemoryAttention, RelativeAttention
from memory_cores.attention.positions import rotary_table, rotate, sinusoids
from memory_cores.attention.schedule import MemorySchedule

if TYPE_CHECKING:
    from memory_cores.attention.base import MemoryTransformer


class Seen(NamedTuple):
    """What one step attends to: the slots [first_slot, end_slot) and the steps [start, place], its own last."""

    start: int
    place: int
    penalty: Tensor | None
    """(B, slots + place + 1 - start), added to each row's scores."""
    first_slot: int = 0
    end_slot: int = 0
    slot_distance: int = 0
    """Steps from the last one that the newest slot stands for to the step."""
    turn: int = 0
    """The place of the first step since the schedule's last turn, the last multiple of its granularity."""


class KeyValueCache:
    """Keys and values (2, H, B, N, D / H), N places in time order."""

    def __init__(self, attention: MemoryAttention, entries: Tensor, length: int) -> None:
        """entries (B, C, D), normalised if the block does so, fill the first C of `length` places."""
        self.attention = attention
        self.heads = attention.num_heads
        self.width = attention.head_width
        self.buffer = entries.new_zeros(2, self.heads, entries.shape[0], length, self.width)
        self.keys, self.values = self.buffer.flatten(1, 2)  # (H B, N, D / H), views
        self.write(entries, 0)

    def write(self, entries: Tensor, place: int) -> None:
        """Cache entries (B, n, D) from `place` on."""
        projected = torch.stack(self.attention.project_memory(entries))  # (2, B, n, D)
        projected = projected.view(*projected.shape[:3], self.heads, self.width)
        self.buffer[:, :, :, place : place + entries.shape[1]] = projected.permute(0, 3, 1, 2, 4)

    def slide(self, count: int, place: int) -> None:
        """Move the `count` entries before `place` to the front."""
        self.buffer[:, :, :, :count] = self.buffer[:, :, :, place - count : place]


class StepCache(KeyValueCache):
    """The remembered steps and the step at hand."""

    def __init__(self, attention: MemoryAttention, memory: Tensor, length: int) -> None:
        super().__init__(attention, memory, length)
        d_model = memory.shape[2]
        weight = attention.qkv.weight.detach().clone()
        weight[:d_model] *= attention.scale
        self.qkv = packed(weight)
        self.query: Tensor
        """(H, B, D / H), the scaled queries of the step at hand, without positions."""
        self.slots: SlotCache | None = None
        self.usage: Tensor | None = None
        """(B, N), the attention that each step received since the schedule's turn after it; counted if not None."""

    def project(self, x: Tensor) -> Tensor:
        """The scaled queries, the keys and the values (3, H, B, D / H) of x (B, D), as a view."""
        projected = torch.mm(x, self.qkv).view(-1, 3, self.heads, self.width).permute(1, 2, 0, 3)
        self.query = projected[0]
        return projected

    def scores(self, x: Tensor, seen: Seen) -> Tensor:
        """Write the keys and values of x (B, D) at its place; return its scores (H B, 1, seen steps)."""
        raise NotImplementedError

    def remember(self, x: Tensor, place: int) -> None:
        """Write the keys and values of x (B, D) at `place`, without attending."""
        self.write(x[:, None], place)

    def attend(self, x: Tensor, seen: Seen) -> Tensor:
        """Write the keys and values of x (B, D) at its place; return the attended values (B, D)."""
        scores = self.scores(x, seen)
        if self.slots is not None:
            scores = torch.cat([self.slots.scores(self, seen), scores], dim=-1)
        if seen.penalty is not None:
            scores = scores.view(self.heads, -1, seen.penalty.shape[1]).add_(seen.penalty).view(scores.shape)
        weights = scores.softmax(dim=-1)
        num_slots = seen.end_slot - seen.first_slot
        context = torch.bmm(weights[..., num_slots:], self.values[:, seen.start : seen.place + 1])
        if self.slots is not None:
            context.baddbmm_(weights[..., :num_slots], self.slots.values[:, seen.first_slot : seen.end_slot])
        if self.usage is not None and seen.turn > seen.start:
            received = weights[:, 0, num_slots : num_slots + seen.turn - seen.start]
            self.usage[:, seen.start : seen.turn] += received.view(self.heads, *x.shape[:1], -1).mean(dim=0)
        return context.view(self.heads, -1, self.width).transpose(0, 1).reshape(-1, self.heads * self.width)

    def slide(self, count: int, place: int) -> None:
        super().slide(count, place)
        if self.usage is not None:
            self.usage[:, :count] = self.usage[:, place - count : place]
            self.usage[:, count:] = 0.0


class RelativeStepCache(StepCache):
    """Adds the tabulated terms of the relative positions."""

    def __init__(self, attention: RelativeAttention, memory: Tensor, length: int, core: MemoryTransformer) -> None:
        super().__init__(attention, memory, length)
        distances = torch.arange(memory.shape[1], -1, -1, device=memory.device)
        self.distances = position_keys(attention, distances, memory)
        self.content_bias = core.content_bias.detach() * attention.scale
        self.position_bias = core.position_bias.detach() * attention.scale
        self.content_query = memory.new_empty(self.heads, memory.shape[0], self.width)
        self.position_query = torch.empty_like(self.content_query)

    def scores(self, x: Tensor, seen: Seen) -> Tensor:
        projected = self.project(x)
        self.buffer[:, :, :, seen.place] = projected[1:]
        torch.add(self.query, self.content_bias, out=self.content_query)
        torch.add(self.query, self.position_bias, out=self.position_query)
        count = seen.place + 1 - seen.start
        scores = torch.bmm(self.position_query, self.distances[:, :, self.distances.shape[2] - count :])
        keys = self.keys[:, seen.start : seen.place + 1].transpose(1, 2)
        return scores.view(-1, 1, count).baddbmm_(self.content_query.view(-1, 1, self.width), keys)


class RotaryStepCache(StepCache):
    """Keys are kept rotated by their place; a slide turns them back by its distance.

    No entry slides twice, since a slide moves fewer entries than were written since the last: rounding never
    adds up.
    """

    def __init__(self, attention: MemoryAttention, memory: Tensor, length: int) -> None:
        super().__init__(attention, memory, length)
        places = torch.arange(length, device=memory.device)
        self.cosine, self.sine = rotary_table(places, self.width, memory.dtype)
        self.keys.copy_(rotate(self.keys, self.cosine, self.sine))

    def remember(self, x: Tensor, place: int) -> None:
        super().remember(x, place)
        self.keys[:, place].copy_(rotate(self.keys[:, place], self.cosine[place], self.sine[place]))

    def scores(self, x: Tensor, seen: Seen) -> Tensor:
        projected = self.project(x)
        query, key = rotate(projected[:2], self.cosine[seen.place], self.sine[seen.place])
        self.buffer[0, :, :, seen.place] = key
        self.buffer[1, :, :, seen.place] = projected[2]
        keys = self.keys[:, seen.start : seen.place + 1].transpose(1, 2)
        return torch.bmm(query.reshape(-1, 1, self.width), keys)

    def slide(self, count: int, place: int) -> None:
        super().slide(count, place)
        turn_back(self.keys[:, :count], place - count)


class SlotCache(KeyValueCache):
    """The compressed slots, whose last steps lie `rate` steps apart."""

    def scores(self, steps: StepCache, seen: Seen) -> Tensor:
        """The scores (H B, 1, slots) of the step whose queries `steps` made last."""
        raise NotImplementedError


class RelativeSlotCache(SlotCache):
    """Tabulates the relative positions once for each remainder of the distance, so that slots find them in a row."""

    def __init__(self, attention: RelativeAttention, slots: Tensor, length: int, schedule: MemorySchedule) -> None:
        super().__init__(attention, slots, length)
        rate, self.nearest = schedule.compression_rate, schedule.memory_length + 1
        self.rate = rate
        count = schedule.granularity // rate + schedule.compressed_length - 1
        distances = torch.arange(rate * count - 1, -1, -1, device=slots.device) + self.nearest
        table = position_keys(attention, distances, slots)
        self.tables = [table[..., rate - 1 - rest :: rate].contiguous() for rest in range(rate)]

    def scores(self, steps: StepCache, seen: Seen) -> Tensor:
        assert isinstance(steps, RelativeStepCache)
        whole, rest = divmod(seen.slot_distance - self.nearest, self.rate)
        table = self.tables[rest]
        count = seen.end_slot - seen.first_slot
        newest = table.shape[2] - whole
        scores = torch.bmm(steps.position_query, table[:, :, newest - count : newest])
        keys = self.keys[:, seen.first_slot : seen.end_slot].transpose(1, 2)
        return scores.view(-1, 1, count).baddbmm_(steps.content_query.view(-1, 1, self.width), keys)


class RotarySlotCache(SlotCache):
    """Keys are kept rotated by `rate` times their place; no entry slides twice."""

    def __init__(self, attention: MemoryAttention, slots: Tensor, length: int, schedule: MemorySchedule) -> None:
        self.rate = schedule.compression_rate
        places = torch.arange(length, device=slots.device)
        self.cosine, self.sine = rotary_table(self.rate * places, attention.head_width, slots.dtype)
        farthest = self.rate * length + schedule.capacity
        positions = torch.arange(farthest + 1, device=slots.device)
        self.query_cosine, self.query_sine = rotary_table(positions, attention.head_width, slots.dtype)
        super().__init__(attention, slots, length)

    def write(self, entries: Tensor, place: int) -> None:
        super().write(entries, place)
        written = slice(place, place + entries.shape[1])
        self.keys[:, written] = rotate(self.keys[:, written], self.cosine[written], self.sine[written])

    def scores(self, steps: StepCache, seen: Seen) -> Tensor:
        assert isinstance(steps, RotaryStepCache)
        position = self.rate * (seen.end_slot - 1) + seen.slot_distance
        query = rotate(steps.query, self.query_cosine[position], self.query_sine[position])
        keys = self.keys[:, seen.first_slot : seen.end_slot].transpose(1, 2)
        return torch.bmm(query.reshape(-1, 1, self.width), keys)

    def slide(self, count: int, place: int) -> None:
        super().slide(count, place)
        turn_back(self.keys[:, :count], self.rate * (place - count))


def slot_cache(attention: MemoryAttention, slots: Tensor, length: int, schedule: MemorySchedule) -> SlotCache:
    """The cache of slots (B, n_cm, D) that fits the attention's positions."""
    if isinstance(attention, RelativeAttention):
        return RelativeSlotCache(attention, slots, length, schedule)
    return RotarySlotCache(attention, slots, length, schedule)


def step_cache(attention: MemoryAttention, memory: Tensor, length: int, core: MemoryTransformer) -> StepCache:
    """The cache that fits the attention's positions."""
    if isinstance(attention, RelativeAttention):
        return RelativeStepCache(attention, memory, length, core)
    return RotaryStepCache(attention, memory, length)


def position_keys(attention: RelativeAttention, distances: Tensor, like: Tensor) -> Tensor:
    """W_r R of distances (N,) as (H, D / H, N)."""
    table = attention.position(sinusoids(distances, like.shape[-1], like.dtype))
    return attention.heads(table).transpose(1, 2).contiguous()


def turn_back(keys: Tensor, positions: int) -> None:
    """Rotate keys (..., N, D / H) in place as if they lay `positions` earlier."""
    turn = rotary_table(torch.tensor([-positions], device=keys.device), keys.shape[-1], keys.dtype)
    keys.copy_(rotate(keys, *turn))


def packed(weight: Tensor) -> Tensor:
    """A linear layer's weight (outputs, inputs) as the right factor (inputs, outputs).

    Its rows in memory lie along the longer side: a product with few rows is bound by reading the weight, which
    is faster the longer its rows are.
    """
    outputs, inputs = weight.shape
    if outputs >= inputs:
        return weight.detach().t().contiguous()
    return weight.detach().clone().t()
