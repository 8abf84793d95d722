"""Cached keys and values of one layer, from which single steps attend."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from memory_cores.attention.attention import Attention
from memory_cores.attention.patterns import Run, take
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
    """(B, K), added to each row's scores: 0 at keys that the row sees and -inf at others; None if all rows see all."""
    turn: int = 0
    """The place of the first step since the schedule's last turn, the last multiple of its granularity."""


class KeyValueCache:
    """Keys and values (2, H, B, N, W) at N places in time order, for attention without positions.

    Places are `stride` steps apart: the position of a place is stride times the place.
    """

    def __init__(self, attention: Attention, entries: Tensor, length: int, stride: int = 1) -> None:
        """entries (B, N, D), normalised if the block normalises them, fill the first N of `length` places."""
        self.attention = attention
        self.stride = stride
        self.buffer = entries.new_zeros(2, attention.num_heads, entries.shape[0], length, attention.head_width)
        self.keys, self.values = self.buffer  # views
        self.write(entries, 0)

    def write(self, entries: Tensor, place: int) -> None:
        """Cache entries (B, N, D) from `place` on."""
        keys, values = (self.attention.heads(part) for part in self.attention.project_memory(entries))
        places = slice(place, place + entries.shape[1])
        self.keys[:, :, places] = self.turn(keys, slice(self.stride * place, self.stride * places.stop, self.stride))
        self.values[:, :, places] = values

    def put(self, key: Tensor, value: Tensor, place: int) -> None:
        """Cache a rotated key and a value (H, B, W) at `place`."""
        self.keys[:, :, place] = key
        self.values[:, :, place] = value

    def slide(self, count: int, place: int) -> None:
        """Move the `count` entries before `place` to the front."""
        self.buffer[:, :, :, :count] = self.buffer[:, :, :, place - count : place]

    def turn(self, x: Tensor, positions: int | slice) -> Tensor:
        """Queries or keys (..., N, W), or one (..., W), rotated by their positions where these are rotary."""
        return x

    def scores(self, query: Tensor, run: Run) -> Tensor:
        """The scores (H, B, 1, K) of one step's scaled and rotated query (H, B, 1, W) and a run of cached keys."""
        return query @ take(self.keys, (run,)).transpose(-1, -2)


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
        scaled = [attention.scale * bias.detach()[:, None] for bias in biases]
        self.terms = [
            RelativeTerms(table[..., stride - 1 - rest :: stride].contiguous(), len(distances) // stride - 1, *scaled)
            for rest in range(stride)
        ]

    def scores(self, query: Tensor, run: Run) -> Tensor:
        whole, rest = divmod(run.distance - self.nearest, self.stride)
        terms = self.terms[rest]
        in_strides = run._replace(distance=whole, stride=run.stride // self.stride)
        content, position = query + terms.content_bias, query + terms.position_bias
        return terms.with_runs(content, position, take(self.keys, (run,)), (in_strides,))


class RotaryCache(KeyValueCache):
    """A cache of keys that are rotated by their positions; a slide rotates them back by its distance.

    A slide moves fewer entries than were written since the last one, so no entry slides twice and rounding errors do
    not add up.
    """

    def __init__(self, attention: Attention, entries: Tensor, length: int, farthest: int, stride: int = 1) -> None:
        """farthest: the largest distance from a key to a query."""
        places = torch.arange(stride * length + farthest, device=entries.device)
        self.cosine, self.sine = rotary_table(places, attention.head_width, entries.dtype)
        super().__init__(attention, entries, length, stride)

    def turn(self, x: Tensor, positions: int | slice) -> Tensor:
        return rotate(x, self.cosine[positions], self.sine[positions])

    def slide(self, count: int, place: int) -> None:
        super().slide(count, place)
        back = torch.tensor([self.stride * (count - place)], device=self.keys.device)
        turned = rotate(self.keys[:, :, :count], *rotary_table(back, self.keys.shape[-1], self.keys.dtype))
        self.keys[:, :, :count] = turned


class CachedAttention:
    """One layer's attention for single steps: prepacked projections, and caches of steps and of compressed slots."""

    def __init__(self, module: Attention, steps: KeyValueCache, slots: KeyValueCache | None = None) -> None:
        self.module = module
        self.steps = steps
        self.slots = slots
        weight = module.qkv.weight.detach().clone()
        weight[: weight.shape[1]] *= module.scale
        self.qkv = pack(weight)
        self.num_heads, self.head_width = module.num_heads, module.head_width
        self.query: Tensor
        """(B, H, 1, W), the scaled queries of the latest step, without positions."""
        self.usage: Tensor | None = None
        """(B, N), the attention that each cached step has received from later turns of the schedule; not counted if
        None."""

    def attend(self, x: Tensor, seen: StepView) -> Tensor:
        """Cache the keys and values of x (B, D) at its place; return the attended values (B, D)."""
        projected = torch.mm(x, self.qkv).view(-1, 3, self.num_heads, self.head_width).permute(1, 2, 0, 3)
        self.query = projected[0].transpose(0, 1)[:, :, None]
        query, key = self.steps.turn(projected[:2], self.steps.stride * seen.place)
        self.steps.put(key, projected[2], seen.place)
        sources = [(self.steps, run) for run in seen.steps]
        scores = [self.steps.scores(query[:, :, None], run) for run in seen.steps]
        if self.slots is not None and seen.slots is not None:
            position = self.slots.stride * (seen.slots.keys.stop - 1) + seen.slots.distance
            slot_query = self.slots.turn(projected[0], position)[:, :, None]
            sources = [(self.slots, seen.slots), *sources]
            scores = [self.slots.scores(slot_query, seen.slots), *scores]
        joined = scores[0] if len(scores) == 1 else torch.cat(scores, dim=-1)
        if seen.penalty is not None:
            joined.add_(seen.penalty[:, None])
        weights = joined.softmax(dim=-1)
        parts = torch.split(weights, [run.length for _, run in sources], dim=-1)
        if self.usage is not None:
            self.count_usage(parts[-1], seen)
        context = sum_of_values(sources, parts)
        return context.transpose(0, 1).reshape(-1, self.num_heads * self.head_width)

    def remember(self, x: Tensor, place: int) -> None:
        """Cache the keys and values of x (B, D) at `place`, without attending."""
        self.steps.write(x[:, None], place)

    def count_usage(self, weights: Tensor, seen: StepView) -> None:
        """Add the weights (H, B, 1, K) of the steps seen to the usage of the steps before the schedule's last turn."""
        assert self.usage is not None
        (run,) = seen.steps
        remembered = seen.turn - run.keys.start
        if remembered > 0:
            self.usage[:, run.keys.start : seen.turn] += weights[:, :, 0, :remembered].mean(dim=0)

    def slide(self, count: int, place: int) -> None:
        """Move the `count` cached steps before `place` to the front."""
        self.steps.slide(count, place)
        if self.usage is not None:
            self.usage[:, :count] = self.usage[:, place - count : place]
            self.usage[:, count:] = 0.0


def sum_of_values(sources: list[tuple[KeyValueCache, Run]], weights: tuple[Tensor, ...]) -> Tensor:
    """(H, B, W), the sum of the values of the runs of each cache, weighted by weights (H, B, 1, K)."""
    total: Tensor | None = None
    for (cache, run), part in zip(sources, weights, strict=True):
        values, part = take(cache.values, (run,)).flatten(0, 1), part.flatten(0, 1)
        total = torch.bmm(part, values) if total is None else total.baddbmm_(part, values)
    assert total is not None
    return total.view(weights[0].shape[0], weights[0].shape[1], -1)


def pack(weight: Tensor) -> Tensor:
    """A linear layer's weight (outputs, inputs) as the right factor (inputs, outputs).

    It is laid out in memory with rows along its longer side: the time of a product with few rows is that of reading the
    weight, which is faster the longer its rows are.
    """
    outputs, inputs = weight.shape
    if outputs >= inputs:
        return weight.detach().t().contiguous()
    return weight.detach().clone().t()
