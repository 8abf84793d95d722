"""Multi-head attention over remembered steps and a call's own, with relative or rotary positions."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from memory_cores.initialisation import fan_in_normal_
from memory_cores.memory_schedule import QueryBlock
from memory_cores.positions import relative_shift, rotate


class RelativePositions(NamedTuple):
    """What relative attention needs beside its own weights; shared by all layers."""

    table: Tensor
    """(K + 1, D), sinusoids of the distances K - 1, ..., 0, -1 for the K keys of the longest query block."""
    content_bias: Tensor
    """(H, 1, D / H), u of the paper."""
    position_bias: Tensor
    """(H, 1, D / H), v of the paper."""


class RotaryPositions(NamedTuple):
    """Cosines and sines, each (M + T, D / H / 2), of the positions of memory and call."""

    cosine: Tensor
    sine: Tensor


class MemoryAttention(nn.Module):
    """The projections that attention over a memory shares: queries of the call, keys and values of both."""

    def __init__(self, d_model: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_width = d_model // num_heads
        self.scale = self.head_width**-0.5
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.output = nn.Linear(d_model, d_model, bias=False)
        self.dropout = nn.Dropout(dropout)
        fan_in_normal_(self.qkv)
        fan_in_normal_(self.output)

    def heads(self, x: Tensor) -> Tensor:
        """(..., N, D) -> (..., H, N, D / H)."""
        return x.view(*x.shape[:-1], -1, self.head_width).transpose(-3, -2)

    def project(self, x: Tensor, memory: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, H, T, D / H) of x (B, T, D), keys and values (B, H, M + T, D / H) of memory and x."""
        query, key, value = self.qkv(x).chunk(3, dim=-1)
        memory_key, memory_value = self.project_memory(memory)
        key = torch.cat([memory_key, key], dim=1)
        value = torch.cat([memory_value, value], dim=1)
        return self.heads(query), self.heads(key), self.heads(value)

    def project_memory(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values, each (B, M, D), of memory (B, M, D)."""
        key, value = functional.linear(memory, self.qkv.weight[memory.shape[-1] :]).chunk(2, dim=-1)
        return key, value

    def merge(self, contexts: list[Tensor]) -> Tensor:
        """The output (B, T, D) of the attended values (B, H, S, D / H) of every query block."""
        context = contexts[0] if len(contexts) == 1 else torch.cat(contexts, dim=2)
        merged: Tensor = self.dropout(self.output(context.transpose(1, 2).flatten(2)))
        return merged


class RelativeAttention(MemoryAttention):
    """Attention with Transformer-XL's relative positions (Dai et al., 1901.02860, section 3.3).

    The score of query i and key j is (q_i . k_j + u . k_j + (q_i + v) . W_r R_{i-j}) / sqrt(D / H).
    """

    def __init__(self, d_model: int, num_heads: int, dropout: float) -> None:
        super().__init__(d_model, num_heads, dropout)
        self.position = nn.Linear(d_model, d_model, bias=False)
        fan_in_normal_(self.position)

    def forward(self, x: Tensor, memory: Tensor, blocks: list[QueryBlock], positions: RelativePositions) -> Tensor:
        """x (B, T, D) attends to memory (B, M, D) and itself where the blocks' masks allow -> (B, T, D)."""
        query, key, value = self.project(x, memory)
        distances = self.heads(self.position(self.dropout(positions.table)))
        distances = distances.transpose(-1, -2).contiguous()  # (H, D / H, K + 1)
        content_query = (query + positions.content_bias) * self.scale
        position_query = (query + positions.position_bias) * self.scale
        contexts = []
        for start, stop, mask in blocks:
            seen = slice(start, stop + memory.shape[1])
            scores = content_query[:, :, start:stop] @ key[:, :, seen].transpose(-1, -2)
            at_distance = position_query[:, :, start:stop] @ distances[..., -(scores.shape[-1] + 1) :]
            penalty = torch.zeros_like(mask, dtype=scores.dtype).masked_fill_(~mask, -torch.inf)
            # in place, since the (B, H, S, K) scores are most of what a layer moves and none is needed twice
            weights = scores.add_(relative_shift(at_distance)).add_(penalty).softmax(dim=-1)
            contexts.append(self.dropout(weights) @ value[:, :, seen])
        return self.merge(contexts)


class RotaryAttention(MemoryAttention):
    """Attention with rotary positions (Su et al., 2104.09864), which runs on torch's fused kernels."""

    def forward(self, x: Tensor, memory: Tensor, blocks: list[QueryBlock], positions: RotaryPositions) -> Tensor:
        """x (B, T, D) attends to memory (B, M, D) and itself where the blocks' masks allow -> (B, T, D)."""
        query, key, value = self.project(x, memory)
        cosine, sine = positions
        query = rotate(query, cosine[-x.shape[1] :], sine[-x.shape[1] :])
        key = rotate(key, cosine, sine)
        dropout = self.dropout.p if self.training else 0.0
        contexts = []
        for start, stop, mask in blocks:
            seen = slice(start, stop + memory.shape[1])
            contexts.append(
                functional.scaled_dot_product_attention(
                    query[:, :, start:stop], key[:, :, seen], value[:, :, seen], mask, dropout
                )
            )
        return self.merge(contexts)
