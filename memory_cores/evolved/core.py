"""The Evolved Transformer's decoder cell (So et al., 1901.11117) over a Transformer-XL memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from memory_cores.attention.attention import Attention
from memory_cores.attention.base import MemoryOptions, MemoryTransformer
from memory_cores.attention.kv_cache import CachedAttention
from memory_cores.attention.schedule import MemorySchedule, push
from memory_cores.attention.stream import TransformerXLStream
from memory_cores.core import CoreOutput, State
from memory_cores.evolved.cached_cell import CachedConvolutionBlock, CachedDenseBlock, CachedEvolvedBlock
from memory_cores.evolved.cell import (
    BRANCH_HISTORY,
    JOIN_HISTORY,
    ConvolutionBlock,
    ConvolutionInputs,
    DenseBlock,
    EvolvedBlock,
)
from memory_cores.options import at_least
from memory_cores.validation import check_call

MOST_DOUBLED = 16
"""Doubling ends at this number of heads."""


@dataclass(frozen=True, kw_only=True)
class EvolvedOptions(MemoryOptions):
    """The options of `Evolved`."""

    num_layers: int = 2
    """Stacked cells. Each has two attentions with a memory each, so information reaches 2 num_layers times
    memory_length steps back; cost grows in proportion."""
    num_heads: int = 4
    """Attention heads H of the second attention of a cell. The first has twice as many but at most 16, or H where that
    is more. Both numbers must divide d_model."""
    d_ff: int | None = None
    """Width of the hidden layer that ends a cell; null is 4 d_model, as in the authors' code. A narrower one trades
    capacity for speed."""
    granularity: int = 1
    """Steps by which the memory moves on at a time: 1 is an exact sliding window, and the segment length is the
    schedule of Transformer-XL. Unroll and segment lengths must be multiples of it."""
    dropout: float = 0.0
    """Dropout rate of the attention weights, of both branches of convolutions, of the hidden layer and of what every
    sublayer adds to its input; 0 or more and below 1. Raise it where the held-out loss rises while the training loss
    falls."""

    @property
    def first_heads(self) -> int:
        """Heads of the first attention of a cell."""
        return max(self.num_heads, min(2 * self.num_heads, MOST_DOUBLED))

    def problems(self, d_model: int) -> list[str]:
        sizes = at_least(1, num_layers=self.num_layers, granularity=self.granularity)
        return super().problems(d_model) + sizes

    def width_problems(self, d_model: int) -> list[str]:
        problems = super().width_problems(d_model)
        if problems:
            return problems
        first = f"{self.first_heads} heads, which the first attention of a cell has where num_heads is {self.num_heads}"
        if d_model % self.first_heads:
            return [f"d_model is {d_model}, expected a multiple of the {first}"]
        if self.positions == "rotary" and d_model // self.first_heads % 2:
            return [f"d_model is {d_model}, expected heads of an even width for rotary positions, also for the {first}"]
        return []

    def blocks(self, d_model: int) -> Iterator[EvolvedBlock]:
        """The two blocks of every cell, with freshly drawn weights."""
        d_ff = 4 * d_model if self.d_ff is None else self.d_ff
        for _ in range(self.num_layers):
            first = Attention(d_model, self.first_heads, self.dropout, self.positions)
            yield ConvolutionBlock(first, d_model, self.dropout)
            second = Attention(d_model, self.num_heads, self.dropout, self.positions)
            yield DenseBlock(second, d_model, d_ff, self.dropout)


class Evolved(MemoryTransformer):
    """Evolved Transformer: its decoder cell, attention and convolutions found by search, without an encoder.

    A cell takes x through two blocks, each attention with a residual and then a second sublayer with another:

        h = x + attention(norm(x)),   n = norm(h),   left = relu(conv_11(n)),   right = conv_7(n)
        z = h + conv_7(norm(left + right))
        h = z + attention(norm(z)),   y = h + W_2 norm(swish(W_1 norm(h) + b_1)) + b_2

    after the authors' code in tensor2tensor, without its attentions to an encoder. The first attention has twice the
    heads, 16 at most. conv_k is a causal separable convolution of k taps; left has 2 D channels, right D / 2 and zeros
    up to 2 D. A layer norm follows the last cell. Each attention remembers its own inputs, x or z, and attends to them
    as Transformer-XL does; the biases u and v of relative positions are shared by all attentions, each of which reads
    them as those of its own heads. An independent plain loop is tests/memory_cores/plain_evolved.py.

    State, for L cells: memory (B, 2 L, C, D), the last C = memory_length + granularity - 1 inputs of each attention,
    newest last, zeros where unused; branch_inputs (B, L, 10, D) and join_inputs (B, L, 6, 2 D), likewise the last
    inputs of the convolutions; age (B,) int64, steps of the episode, at most the larger of C and 10; phase (B,) int64,
    steps seen modulo granularity. The parameters depend neither on memory_length nor on granularity, so both may differ
    between training and evaluation.

    >>> import memory_cores
    >>> core = memory_cores.build("evolved", d_model=8, memory_length=3)
    >>> x, stream = torch.randn(2, 5, 8), core.stream(batch_size=2)
    >>> y = core(x, core.initial_state(batch_size=2)).y
    >>> stepped = torch.stack([stream.step(x[:, t]) for t in range(5)], dim=1)
    >>> torch.allclose(y, stepped, atol=1e-5)
    True
    """

    Options = EvolvedOptions

    def __init__(self, d_model: int, options: EvolvedOptions) -> None:
        schedule = MemorySchedule(options.memory_length, options.granularity, history=BRANCH_HISTORY)
        super().__init__(d_model, options, schedule, lambda: options.blocks(d_model))
        self.first_head_width = d_model // options.first_heads

    @property
    def cells(self) -> Iterator[tuple[ConvolutionBlock, DenseBlock]]:
        """The two blocks of each cell."""
        blocks = iter(self.blocks)
        return cast(Iterator[tuple[ConvolutionBlock, DenseBlock]], zip(blocks, blocks, strict=True))

    def initial_state(self, batch_size: int, device: torch.device | str | None = None) -> State:
        attentions, cells = self.num_layers, self.num_layers // 2
        return self.empty_state(
            batch_size,
            device,
            memory=(attentions, self.schedule.capacity, self.d_model),
            branch_inputs=(cells, BRANCH_HISTORY, self.d_model),
            join_inputs=(cells, JOIN_HISTORY, 2 * self.d_model),
        )

    def forward(self, x: Tensor, state: State, reset: Tensor | None = None) -> CoreOutput:
        check_call(self, x, state, reset)
        state = {name: tensor.detach() for name, tensor in state.items()}
        memory = state["memory"]
        window = self.schedule.window(state["age"], state["phase"], reset, steps=x.shape[1])
        positions = first_positions = self.call_positions(window, like=memory)
        if self.positions == "rotary":
            first_positions = self.rotary_positions(window, self.first_head_width, like=memory)
        x = x.to(memory.dtype)  # under autocast the input may come in half precision; the residual stream never is
        inputs, convolved = [], []
        for cell, (first, second) in enumerate(self.cells):
            inputs.append(x.detach())
            h = first.attend(x, memory[:, 2 * cell], window.views, first_positions)
            past = ConvolutionInputs(state["branch_inputs"][:, cell], state["join_inputs"][:, cell])
            z, entering = first.convolve(h, past, window.episode)
            convolved.append(entering)
            inputs.append(z.detach())
            x = second.transform(second.attend(z, memory[:, 2 * cell + 1], window.views, positions))
        after = {
            "memory": push(memory, inputs, window.age),
            "branch_inputs": push(state["branch_inputs"], [c.branches.detach() for c in convolved], window.age),
            "join_inputs": push(state["join_inputs"], [c.join.detach() for c in convolved], window.age),
        }
        return CoreOutput(self.normalise_output(x), {**after, "age": window.age, "phase": window.phase}, {}, {})

    def stream(self, batch_size: int) -> EvolvedStream:
        return EvolvedStream(self, batch_size)


class EvolvedStream(TransformerXLStream):
    """Steps an `Evolved` core; the last inputs of the convolutions are kept beside the keys and values."""

    core: Evolved
    blocks: list[CachedEvolvedBlock]

    def forget(self, reset: Tensor) -> None:
        super().forget(reset)
        for block in self.convolutions:
            block.forget(reset)

    @property
    def convolutions(self) -> list[CachedConvolutionBlock]:
        """The blocks with convolutions, one of each cell."""
        return cast(list[CachedConvolutionBlock], self.blocks[::2])

    @torch.inference_mode(False)
    @torch.no_grad()
    def state(self) -> State:
        state = super().state()
        state["branch_inputs"] = torch.stack([block.branches.transpose(0, 1) for block in self.convolutions], dim=1)
        state["join_inputs"] = torch.stack([block.joined.transpose(0, 1) for block in self.convolutions], dim=1)
        return state

    def cached_blocks(self, state: State) -> list[CachedEvolvedBlock]:
        state = {name: tensor.detach() for name, tensor in state.items()}
        blocks: list[CachedEvolvedBlock] = []
        for cell, (first, second) in enumerate(self.core.cells):
            past = ConvolutionInputs(state["branch_inputs"][:, cell], state["join_inputs"][:, cell])
            attention = self.cached_memory(first, state["memory"][:, 2 * cell])
            blocks.append(CachedConvolutionBlock(first, attention, past))
            attention = self.cached_memory(second, state["memory"][:, 2 * cell + 1])
            blocks.append(CachedDenseBlock(second, attention))
        return blocks

    def cached_memory(self, block: EvolvedBlock, memory: Tensor) -> CachedAttention:
        """The attention of a block with a cache filled from its memory (B, C, D)."""
        entries = block.normalise_memory(memory)
        cache = self.cache(block.attention, entries, self.length, range(self.capacity + 1))
        return CachedAttention(block.attention, cache)
