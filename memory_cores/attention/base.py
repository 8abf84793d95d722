"""What Transformer-XL and the Compressive Transformer share: blocks that attend to a scheduled memory."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from memory_cores.attention.attention import RelativeAttention, RelativePositions, RotaryAttention, RotaryPositions
from memory_cores.attention.block import Norm, TransformerBlock
from memory_cores.attention.positions import rotary_table, sinusoids
from memory_cores.attention.schedule import MemorySchedule, Window
from memory_cores.core import MemoryCore
from memory_cores.validation import at_least, one_of, probability

Positions = Literal["relative", "rotary"]


class MemoryTransformer(MemoryCore):
    """Transformer blocks over a memory that follows a schedule, and the positions of its steps and slots."""

    def __init__(
        self,
        *,
        d_model: int,
        num_layers: int,
        num_heads: int,
        d_ff: int | None,
        norm: Norm,
        positions: Positions,
        dropout: float,
        schedule: MemorySchedule,
    ) -> None:
        super().__init__()
        self.d_model = d_model
        self.num_layers = num_layers
        self.schedule = schedule
        self.period = schedule.granularity
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

    def positions(self, window: Window, *, like: Tensor) -> RelativePositions | RotaryPositions:
        """The position terms that every layer of one call shares."""
        schedule = self.schedule
        if self.relative:
            rate, slots = schedule.compression_rate, schedule.compressed_length
            longest = max(block.stop - block.start for block in window.blocks)
            farthest = schedule.span + -(-longest // rate) * rate - 1
            slot_distances = [
                schedule.context(window.first_phase + block.start) + 1 + rate * (slots - 1) for block in window.blocks
            ]
            beyond_newest = [
                distance - rate * block.num_slots
                for distance, block in zip(slot_distances, window.blocks, strict=True)
                if block.num_slots
            ]
            nearest = min([-1, *beyond_newest])
            distances = torch.arange(farthest, nearest - 1, -1, device=like.device)
            table = sinusoids(distances, self.d_model, like.dtype)
            return RelativePositions(table, farthest, self.content_bias, self.position_bias, slot_distances, rate)
        steps = window.episode.shape[1]
        places = torch.arange(-schedule.capacity, steps, device=like.device)
        if schedule.compressed_length:
            last_steps = schedule.slot_ends(window.first_phase, slice(0, window.num_slots)).to(like.device) - 1
            places = torch.cat([last_steps, places])
        return RotaryPositions(*rotary_table(places, self.head_width, like.dtype))


def transformer_problems(
    *,
    d_model: int,
    num_layers: int,
    num_heads: int,
    d_ff: int | None,
    memory_length: int,
    norm: str,
    positions: str,
    dropout: float,
) -> list[str]:
    """The problems of the options that all memory Transformers have."""
    problems = at_least(1, d_model=d_model, num_layers=num_layers, num_heads=num_heads)
    problems += at_least(0, memory_length=memory_length)
    problems += at_least(1, d_ff=d_ff) if d_ff is not None else []
    problems += one_of(("post", "pre", "gru"), norm=norm)
    problems += one_of(("relative", "rotary"), positions=positions)
    problems += probability(dropout=dropout)
    if not at_least(1, d_model=d_model, num_heads=num_heads):
        problems += head_problems(d_model, num_heads, positions)
    return problems


def head_problems(d_model: int, num_heads: int, positions: str) -> list[str]:
    """The problems of a width that its heads or its positions cannot share out."""
    if d_model % num_heads:
        return [f"d_model is {d_model}, expected a multiple of num_heads, {num_heads}"]
    if positions == "rotary" and d_model // num_heads % 2:
        return [f"d_model is {d_model}, expected an even d_model / num_heads for rotary positions"]
    if positions == "relative" and d_model % 2:
        return [f"d_model is {d_model}, expected an even number for relative positions"]
    return []
