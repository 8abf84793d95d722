"""Single steps of a Transformer-XL, with cached keys and values of the remembered steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from memory_cores.attention.attention import Attention
from memory_cores.attention.base import MemoryTransformer
from memory_cores.attention.block import TransformerBlock
from memory_cores.attention.cached_block import CachedBlock, CachedLayer
from memory_cores.attention.kv_cache import (
    CachedAttention,
    KeyValueCache,
    KeyValueHeads,
    RelativeCache,
    RotaryCache,
    StepView,
)
from memory_cores.attention.patterns import Run
from memory_cores.attention.schedule import clear_unused
from memory_cores.core import State, Stream
from memory_cores.validation import check_state, check_step


class TransformerXLStream(Stream):
    """Steps a `TransformerXL` core in O(D^2 + context * D) for each layer, however old the stream is.

    Every buffer holds more than twice the memory's capacity, in time order, and is written at one advancing place; at
    its end the newest entries slide to the front. The context is thus always one contiguous slice, and the amortised
    cost of copying is constant. Steps run in the parameters' dtype, also under autocast.
    """

    blocks: Sequence[CachedLayer]
    """The blocks in the order in which a step runs through them."""

    def __init__(self, core: MemoryTransformer, batch_size: int) -> None:
        self.core = core
        self.batch_size = batch_size
        self.capacity = core.schedule.capacity
        self.length = 2 * self.capacity + 1
        self.place = 0
        self.phase = 0
        self.all_seen_from = 0
        """From this place on every row sees every step, so a context that begins later needs no penalty."""
        self.load(core.initial_state(batch_size))

    @torch.no_grad()
    def step(self, x: Tensor, reset: Tensor | None = None) -> Tensor:
        check_step(self.core, self.batch_size, x, reset)
        if torch.is_autocast_enabled(x.device.type):
            with torch.autocast(x.device.type, enabled=False):
                return self.step(x.to(self.inputs.dtype), reset)
        self.prepare()
        if reset is not None and reset.any():
            self.forget(reset)
        y = self.core.normalise_output(self.transform(x, self.step_view()))
        self.advance()
        return y

    def transform(self, x: Tensor, seen: StepView) -> Tensor:
        """One step of all layers, x (B, D) -> (B, D), which stores inputs, keys and values at the present place."""
        if self.core.reversible:
            first = second = x
            for layer, reversible in enumerate(cast(Sequence[CachedBlock[Any]], self.blocks)):
                self.inputs[layer, :, self.place] = second
                first = first + reversible.attention_update(second, seen)
                second = second + reversible.mlp_update(first)
            return (first + second) / 2
        for layer, block in enumerate(self.blocks):
            self.inputs[layer, :, self.place] = x
            x = block.step(x, seen)
        return x

    def prepare(self) -> None:
        """Make room for a step."""
        if self.place == self.length:
            self.slide()

    def forget(self, reset: Tensor) -> None:
        """Hide the past from the rows in which an episode begins, those where reset (B,)."""
        self.penalty[reset, : self.place] = -torch.inf
        self.all_seen_from = self.place
        self.episode_place[reset] = self.place

    def step_view(self) -> StepView:
        """What the next step attends to."""
        start = self.place - self.core.schedule.context(self.phase)
        penalty = self.penalty[:, start : self.place + 1] if start < self.all_seen_from else None
        return StepView(self.place, (Run(slice(start, self.place + 1)),), penalty=penalty)

    def advance(self) -> None:
        """Count the step that was taken."""
        self.place += 1
        self.phase = (self.phase + 1) % self.core.period

    def slide(self) -> None:
        """Move the newest entries of every buffer to its front."""
        distance = self.length - self.capacity
        self.inputs[:, :, : self.capacity] = self.inputs[:, :, distance:]
        self.penalty[:, : self.capacity] = self.penalty[:, distance:]
        self.penalty[:, self.capacity :] = 0.0
        for block in self.blocks:
            block.attention.slide(self.capacity, self.length)
        self.place -= distance
        self.all_seen_from -= distance
        self.episode_place -= distance

    @torch.inference_mode(False)
    @torch.no_grad()
    def state(self) -> State:
        age = (self.place - self.episode_place).clamp(max=self.core.schedule.span)
        newest = self.inputs[:, :, self.place - self.capacity : self.place]
        memory = clear_unused(newest.transpose(0, 1), age)
        return {"memory": memory, "age": age, "phase": torch.full_like(age, self.phase)}

    @torch.inference_mode(False)
    @torch.no_grad()
    def load(self, state: State) -> None:
        check_state(self.core, state, self.batch_size)
        self.phase = self.core.schedule.shared_phase(state["phase"])
        memory = state["memory"].detach().transpose(0, 1)  # (L, B, C, D)
        num_layers, batch_size, capacity, d_model = memory.shape
        self.inputs = memory.new_zeros(num_layers, batch_size, self.length, d_model)
        self.inputs[:, :, :capacity] = memory
        self.place = capacity
        self.episode_place = capacity - state["age"]
        """(B,), the place of the episode's first step; negative where that is no longer in the buffers."""
        self.penalty = memory.new_zeros(batch_size, self.length)  # -inf at the places that a row must not see
        places = torch.arange(capacity, device=memory.device)
        self.penalty[:, :capacity].masked_fill_(places < self.episode_place[:, None], -torch.inf)
        self.all_seen_from = capacity
        with torch.autocast(memory.device.type, enabled=False):
            self.blocks = self.cached_blocks(state)

    def cached_blocks(self, state: State) -> Sequence[CachedLayer]:
        """The blocks in the order in which a step runs through them, with caches filled from `state`."""
        cached = []
        for layer, module in enumerate(self.core.blocks):
            block = cast(TransformerBlock, module)
            cached.append(CachedBlock(block, self.cached_attention(block, layer, state), self.batch_size))
        return cached

    def cached_attention(self, block: TransformerBlock, layer: int, state: State) -> CachedAttention:
        """The attention of one layer, with caches filled from `state`."""
        attention = cast(Attention, block.attention)
        memory = block.normalise_memory(state["memory"][:, layer].detach())
        return CachedAttention(attention, self.cache(attention, memory, self.length, range(self.capacity + 1)))

    def cache(
        self, attention: KeyValueHeads, entries: Tensor, length: int, distances: range, stride: int = 1
    ) -> KeyValueCache:
        """A cache of `length` places for the core's kind of positions that holds normalised entries (B, N, D).

        distances: all that occur between a key and a query; the stride divides their number.
        """
        if self.core.positions == "relative":
            biases = (self.core.content_bias, self.core.position_bias)
            return RelativeCache(cast(Attention, attention), entries, length, biases, distances, stride)
        if self.core.positions == "rotary":
            return RotaryCache(attention, entries, length, distances.stop, stride)
        return KeyValueCache(attention, entries, length, stride)
