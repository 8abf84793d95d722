"""Cached keys and values of one layer, from which single steps attend."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from memory_cores.attention.attention import Attention, Heads
from memory_cores.attention.patterns import Run
from memory_cores.attention.positions import RelativeTerms, rotary_table, rotate, sinusoids


class StepView(NamedTuple):
    """The cached keys that a single step attends to."""

    place: int
    """The place of the step itself among the cached steps."""
    steps: tuple[Run, ...]
    """Runs of cached steps; the last key is the step itself."""
    slots: Run | None = None
    """The run of cached compressed slots."""
    penalty: Tensor | None = None
    """(B, K), added to each row's scores: 0 at keys that the row sees and -inf at others; None if all rows see all.
    Where keys are selected one by one it is that of all places."""
    turn: int = 0
    """The place of the first step since the schedule's last turn, the last multiple of its granularity."""


class KeyValueHeads(Protocol):
    """What gives keys and values of H heads of width W."""

    num_heads: int
    head_width: int

    def project_heads(self, entries: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values, each (H, B, N, W), of entries (B, N, D)."""


class KeyValueCache:
    """Keys and values (2, H, B, N, W) at N places in time order, for attention without positions.

    Places are `stride` steps apart: the position of a place is stride times the place.
    """

    def __init__(self, attention: KeyValueHeads, entries: Tensor, length: int, stride: int = 1) -> None:
        """entries (B, N, D), normalised if the block normalises them, fill the first N of `length` places."""
        self.attention = attention
        self.stride = stride
        self.buffer = entries.new_zeros(2, attention.num_heads, entries.shape[0], length, attention.head_width)
        self.keys, self.values = self.buffer.flatten(1, 2)  # (H B, N, W), views
        self.write(entries, 0)

    def write(self, entries: Tensor, place: int) -> None:
        """Cache entries (B, N, D) from `place` on."""
        keys, values = self.attention.project_heads(entries)
        places = slice(place, place + entries.shape[1])
        positions = slice(self.stride * places.start, self.stride * places.stop, self.stride)
        self.buffer[0, :, :, places] = self.turn(keys, positions)
        self.buffer[1, :, :, places] = values

    def enter(self, projected: Tensor, place: int) -> Tensor:
        """Cache a step, whose query, key and value are projected (3, H, B, W), at `place`.

        Returns its query (H, B, W), rotated by its position where positions are rotary.
        """
        self.buffer[:, :, :, place] = projected[1:]
        return projected[0]

    def slide(self, count: int, place: int) -> None:
        """Move the `count` entries before `place` to the front."""
        self.buffer[:, :, :, :count] = self.buffer[:, :, :, place - count : place]

    def turn(self, x: Tensor, positions: int | slice) -> Tensor:
        """Queries or keys (..., N, W), or one (..., W), rotated by their positions where these are rotary."""
        return x

    def scores(self, query: Tensor, run: Run) -> Tensor:
        """The scores (H B, 1, K) of one step's scaled and rotated queries (H, B, W) and a run of cached keys."""
        keys = self.keys[:, run.keys]
        return torch.bmm(query.reshape(-1, 1, keys.shape[2]), keys.transpose(1, 2))


class RelativeCache(KeyValueCache):
    """A cache with tables of the products of relative positions.

    There is one table for each remainder of a distance divided by the stride, so that the terms of a run of keys are
    consecutive.
    """

    def __init__(
        self,
        attention: Attention,
        entries: Tensor,
        length: int,
        biases: tuple[Tensor, Tensor],
        distances: range,
        stride: int = 1,
    ) -> None:
        """biases: u and v (H, 1, W). distances: all that occur between a key and a query; the stride divides their
        number."""
        super().__init__(attention, entries, length, stride)
        self.nearest = distances.start
        descending = torch.tensor(distances[::-1], device=entries.device)
        table = attention.position_table(sinusoids(descending, entries.shape[-1], entries.dtype))
        scaled = attention.scale_biases(*(bias.detach() for bias in biases))
        self.terms = [
            RelativeTerms(table[..., stride - 1 - rest :: stride].contiguous(), len(distances) // stride - 1, *scaled)
            for rest in range(stride)
        ]

    def scores(self, query: Tensor, run: Run) -> Tensor:
        whole, rest = divmod(run.distance - self.nearest, self.stride)
        in_strides = Run(run.keys, whole, run.stride // self.stride)
        return self.terms[rest].of_step(query, self.keys[:, run.keys], in_strides)


class RotaryCache(KeyValueCache):
    """A cache of keys that are rotated by their positions; a slide rotates them back by its distance.

    A slide moves fewer entries than were written since the last one, so no entry slides twice and rounding errors do
    not add up.
    """

    def __init__(self, attention: KeyValueHeads, entries: Tensor, length: int, farthest: int, stride: int = 1) -> None:
        """farthest: the largest distance from a key to a query."""
        places = torch.arange(stride * length + farthest, device=entries.device)
        self.cosine, self.sine = rotary_table(places, attention.head_width, entries.dtype)
        super().__init__(attention, entries, length, stride)

    def turn(self, x: Tensor, positions: int | slice) -> Tensor:
        return rotate(x, self.cosine[positions], self.sine[positions])

    def enter(self, projected: Tensor, place: int) -> Tensor:
        turned = self.turn(projected[:2], self.stride * place)
        self.buffer[0, :, :, place] = turned[1]
        self.buffer[1, :, :, place] = projected[2]
        return turned[0]

    def slide(self, count: int, place: int) -> None:
        super().slide(count, place)
        back = torch.tensor([self.stride * (count - place)], device=self.keys.device)
        moved = self.keys[:, :count]
        moved.copy_(rotate(moved, *rotary_table(back, moved.shape[-1], moved.dtype)))


class StepAttention(ABC):
    """One layer's attention for single steps."""

    query: Tensor
    """(H, B, W), the scaled queries of the latest step, without positions, for a block's hook."""

    @abstractmethod
    def attend(self, x: Tensor, seen: StepView) -> Tensor:
        """Cache the keys and values of x (B, D) at its place; return the attended values (B, D)."""

    @abstractmethod
    def slide(self, count: int, place: int) -> None:
        """Move the `count` cached steps before `place` to the front."""


class CachedAttention(StepAttention):
    """Attention to cached steps and compressed slots, with prepacked projections."""

    def __init__(self, module: Heads, steps: KeyValueCache, slots: KeyValueCache | None = None) -> None:
        self.steps = steps
        self.slots = slots
        weight = module.qkv.weight.detach().clone()
        weight[: module.num_heads * module.head_width] *= module.scale
        self.qkv = pack(weight)
        self.num_heads, self.head_width = module.num_heads, module.head_width
        self.usage: Tensor | None = None
        """(B, N), the attention that each cached step has received from later turns of the schedule; not counted if
        None."""

    def attend(self, x: Tensor, seen: StepView) -> Tensor:
        projected = torch.mm(x, self.qkv).view(-1, 3, self.num_heads, self.head_width).permute(1, 2, 0, 3)
        self.query = projected[0]
        query = self.steps.enter(projected, seen.place)
        sources = [(self.steps, run) for run in seen.steps]
        scores = [self.steps.scores(query, run) for run in seen.steps]
        if self.slots is not None and seen.slots is not None:
            position = self.slots.stride * (seen.slots.keys.stop - 1) + seen.slots.distance
            sources.insert(0, (self.slots, seen.slots))
            scores.insert(0, self.slots.scores(self.slots.turn(self.query, position), seen.slots))
        joined = scores[0] if len(scores) == 1 else torch.cat(scores, dim=-1)
        if seen.penalty is not None:
            joined.view(self.num_heads, *seen.penalty.shape).add_(seen.penalty)
        weights = joined.softmax(dim=-1)
        if self.usage is not None:
            self.count_usage(weights, seen)
        context = sum_of_values(sources, weights)
        return context.view(self.num_heads, -1, self.head_width).transpose(0, 1).reshape(len(x), -1)

    def remember(self, x: Tensor, place: int) -> None:
        """Cache the keys and values of x (B, D) at `place`, without attending."""
        self.steps.write(x[:, None], place)

    def count_usage(self, weights: Tensor, seen: StepView) -> None:
        """Add the weights (H B, 1, K) of the steps seen to the usage of the steps before the schedule's last turn."""
        assert self.usage is not None
        (run,) = seen.steps
        remembered = seen.turn - run.keys.start
        if remembered > 0:
            of_steps = weights.view(self.num_heads, len(self.usage), -1)[..., -run.length :]
            self.usage[:, run.keys.start : seen.turn] += of_steps[..., :remembered].mean(dim=0)

    def slide(self, count: int, place: int) -> None:
        self.steps.slide(count, place)
        if self.usage is not None:
            self.usage[:, :count] = self.usage[:, place - count : place]
            self.usage[:, count:] = 0.0


def sum_of_values(sources: list[tuple[KeyValueCache, Run]], weights: Tensor) -> Tensor:
    """(H B, 1, W), the sum of the values of the runs, one after the other, weighted by weights (H B, 1, K)."""
    (cache, run), *others = sources
    if not others:
        return torch.bmm(weights, cache.values[:, run.keys])
    first = run.length
    total = torch.bmm(weights[..., :first], cache.values[:, run.keys])
    for cache, run in others:
        total.baddbmm_(weights[..., first : first + run.length], cache.values[:, run.keys])
        first += run.length
    return total


def pack(weight: Tensor) -> Tensor:
    """A linear layer's weight (outputs, inputs) as the right factor (inputs, outputs).

    It is laid out in memory with rows along its longer side: the time of a product with few rows is that of reading the
    weight, which is faster the longer its rows are.
    """
    outputs, inputs = weight.shape
    if outputs >= inputs:
        return weight.detach().t().contiguous()
    return weight.detach().clone().t()
