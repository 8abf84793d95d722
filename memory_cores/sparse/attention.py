"""Attention in the patterns of the Sparse Transformer."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from memory_cores.attention.attention import MultiHead, merge_heads
from memory_cores.attention.band import join
from memory_cores.attention.band_call import BandCall
from memory_cores.attention.window import window_attention
from memory_cores.sparse import patterns

Pattern = Literal["strided", "fixed"]
"""strided: the steps since a stride ago, and every stride-th step. fixed: the step's block of stride steps, and the
summary cells at the end of earlier blocks."""
Reach = Literal["near", "far", "both"]
"""Which of a pattern's two sets of steps a head sees: the neighbouring steps, the distant ones, or their union."""


class SparseAttention(MultiHead):
    """softmax(Q K^T / sqrt(W)) V over the steps of a sparse pattern (Child et al., 1904.10509)."""

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        dropout: float,
        *,
        pattern: Pattern,
        reaches: tuple[tuple[slice, Reach], ...],
        stride: int,
        count: int,
        summary_length: int,
    ) -> None:
        """reaches: what each group of heads sees; together they are all heads. count: strides that the memory holds.
        summary_length: the summary cells of a head in a block."""
        super().__init__(d_model, num_heads, dropout)
        self.pattern = pattern
        self.reaches = reaches
        self.stride, self.count, self.summary_length = stride, count, summary_length

    def forward(self, x: Tensor, memory: Tensor, call: BandCall) -> Tensor:
        """x (B, T, D) attends to memory (B, M, D) and itself -> (B, T, D)."""
        query, key, value = (self.heads(part) for part in self.project(x, memory))
        query, key = call.turn(query) * self.scale, call.turn(key)
        contexts = [
            self.of_heads(query[heads], key[heads], value[heads], call, heads, reach) for heads, reach in self.reaches
        ]
        context = contexts[0] if len(contexts) == 1 else torch.cat(contexts)
        attended: Tensor = self.dropout(self.output(merge_heads(context)))
        return attended

    def of_heads(self, query: Tensor, key: Tensor, value: Tensor, call: BandCall, heads: slice, reach: Reach) -> Tensor:
        """The attended values (H, B, T, W) of some heads, which see the same sets of the pattern."""
        seen = query, key, value, call.begin
        cells = self.cells(heads, key.device)
        parts = []
        if self.pattern == "strided":
            if reach != "far":
                parts.append(window_attention(*seen, self.stride))
            if reach != "near":
                nearest = 2 if reach == "both" else 0  # neighbours include the step one stride before
                parts.append(patterns.columns(*seen, self.stride, self.count, nearest))
        else:
            if reach != "far":
                parts.append(patterns.own_block(*seen, self.stride, call.phase))
            if reach != "near":
                own = reach == "far"
                parts.append(patterns.summaries(*seen, self.stride, call.phase, cells, self.count, own))
        if len(parts) == 1:
            return parts[0][0]
        return join(torch.stack([context for context, _ in parts]), torch.stack([log_sum for _, log_sum in parts]))

    def cells(self, heads: slice, device: torch.device) -> Tensor:
        """(H, summary_length) int64, the summary cells of some heads in a block: distinct, as far as there are any."""
        head = torch.arange(self.num_heads, device=device)[heads, None]
        first = self.stride - self.summary_length * (head % (self.stride // self.summary_length) + 1)
        return first + torch.arange(self.summary_length, device=device)

    def distances(self, phase: int) -> Tensor:
        """(H, K) int64, how many steps before a step at `phase` those lie that each head sees, without repetition;
        negative where a head sees fewer than others."""
        of_heads = [row for heads, reach in self.reaches for row in self.distances_of(phase, heads, reach)]
        length = max(len(row) for row in of_heads)
        return torch.stack([functional.pad(row, (0, length - len(row)), value=-1) for row in of_heads])

    def distances_of(self, phase: int, heads: slice, reach: Reach) -> list[Tensor]:
        """The distances (K,) for each of some heads, which see the same sets of the pattern."""
        cells = self.cells(heads, torch.device("cpu"))
        near = torch.arange((self.stride if self.pattern == "strided" else phase) + 1)
        if self.pattern == "strided":
            columns = self.stride * torch.arange(2 if reach == "both" else 0, self.count + 1)
            far = [columns] * len(cells)
        else:
            blocks = self.stride * torch.arange(0 if reach == "far" else 1, self.count + 1)[:, None]
            far = [(phase + blocks - of_head).flatten() for of_head in cells]
        of_heads = [{"near": near, "far": steps, "both": torch.cat([near, steps])}[reach] for steps in far]
        return [distance[distance >= 0] for distance in of_heads]
