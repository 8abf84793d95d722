"""Transformer-XL (Dai et al., 1901.02860), gated as GTrXL (Parisotto et al., 1910.06764) by default."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from memory_cores.attention import RelativeAttention, RelativePositions, RotaryAttention, RotaryPositions
from memory_cores.core import CoreOutput, MemoryCore, State
from memory_cores.memory_schedule import MemorySchedule, QueryBlock, push
from memory_cores.positions import rotary_table, sinusoids
from memory_cores.transformer_block import Norm, TransformerBlock
from memory_cores.transformer_xl_stream import TransformerXLStream
from memory_cores.validation import at_least, check_call, one_of, probability, raise_problems


class TransformerXL(MemoryCore):
    """Transformer-XL: attention to a memory of each layer's past inputs; gated (GTrXL) by default.

    State: memory (B, L, C, D), the last C = memory_length + granularity - 1 inputs of each layer, newest
    last, zeros where unused; age (B,) int64, the slots in use; phase (B,) int64, steps seen modulo
    granularity. Parameters do not depend on memory_length or granularity, so both may differ between training
    and evaluation.
    """

    def __init__(
        self,
        *,
        d_model: int,
        num_layers: int = 2,
        num_heads: int = 4,
        d_ff: int | None = None,
        memory_length: int = 64,
        granularity: int = 1,
        norm: Norm = "gru",
        positions: Literal["relative", "rotary"] = "relative",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        problems = at_least(1, d_model=d_model, num_layers=num_layers, num_heads=num_heads, granularity=granularity)
        problems += at_least(0, memory_length=memory_length)
        problems += at_least(1, d_ff=d_ff) if d_ff is not None else []
        problems += one_of(("post", "pre", "gru"), norm=norm)
        problems += one_of(("relative", "rotary"), positions=positions)
        problems += probability(dropout=dropout)
        if not at_least(1, d_model=d_model, num_heads=num_heads):
            problems += head_problems(d_model, num_heads, positions)
        raise_problems("transformer_xl", problems)

        self.d_model = d_model
        self.num_layers = num_layers
        self.schedule = MemorySchedule(memory_length, granularity)
        self.period = granularity
        self.relative = positions == "relative"
        self.head_width = d_model // num_heads
        attention = RelativeAttention if self.relative else RotaryAttention
        self.blocks = nn.ModuleList(
            TransformerBlock(
                attention(d_model, num_heads, dropout),
                d_model=d_model,
                d_ff=4 * d_model if d_ff is None else d_ff,
                norm=norm,
                dropout=dropout,
            )
            for _ in range(num_layers)
        )
        if self.relative:
            self.content_bias = nn.Parameter(torch.empty(num_heads, 1, self.head_width))
            self.position_bias = nn.Parameter(torch.empty(num_heads, 1, self.head_width))
            nn.init.normal_(self.content_bias, std=0.02)
            nn.init.normal_(self.position_bias, std=0.02)

    def initial_state(self, batch_size: int, device: torch.device | str | None = None) -> State:
        weight = next(self.parameters())
        device = weight.device if device is None else device
        shape = (batch_size, self.num_layers, self.schedule.capacity, self.d_model)
        return {
            "memory": torch.zeros(shape, dtype=weight.dtype, device=device),
            "age": torch.zeros(batch_size, dtype=torch.int64, device=device),
            "phase": torch.zeros(batch_size, dtype=torch.int64, device=device),
        }

    def forward(self, x: Tensor, state: State, reset: Tensor | None = None) -> CoreOutput:
        check_call(self, x, state, reset)
        memory = state["memory"].detach()
        window = self.schedule.window(state["age"], state["phase"], reset, steps=x.shape[1])
        positions = self.positions(window.blocks, steps=x.shape[1], like=memory)
        x = x.to(memory.dtype)  # under autocast the input may come in half precision; the residual stream never is
        inputs = []
        for layer, block in enumerate(self.blocks):
            inputs.append(x)
            x = block(x, memory[:, layer], window.blocks, positions)
        state = {"memory": push(memory, inputs, window.age), "age": window.age, "phase": window.phase}
        return CoreOutput(x, state, {}, {})

    def positions(self, blocks: list[QueryBlock], *, steps: int, like: Tensor) -> RelativePositions | RotaryPositions:
        """The position terms that every layer of one call shares."""
        capacity = self.schedule.capacity
        if self.relative:
            longest = blocks[0].stop
            distances = torch.arange(capacity + longest - 1, -2, -1, device=like.device)
            table = sinusoids(distances, self.d_model, like.dtype)
            return RelativePositions(table, self.content_bias, self.position_bias)
        places = torch.arange(capacity + steps, device=like.device)
        return RotaryPositions(*rotary_table(places, self.head_width, like.dtype))

    def stream(self, batch_size: int) -> TransformerXLStream:
        return TransformerXLStream(self, batch_size)


def head_problems(d_model: int, num_heads: int, positions: str) -> list[str]:
    """The problems of a width that its heads or its positions cannot share out."""
    if d_model % num_heads:
        return [f"d_model is {d_model}, expected a multiple of num_heads, {num_heads}"]
    if positions == "rotary" and d_model // num_heads % 2:
        return [f"d_model is {d_model}, expected an even d_model / num_heads for rotary positions"]
    if positions == "relative" and d_model % 2:
        return [f"d_model is {d_model}, expected an even number for relative positions"]
    return []
