"""Multi-head attention over remembered steps and a call's own, with relative or rotary positions."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from memory_cores.attention.positions import relative_shift, rotate
from memory_cores.attention.schedule import QueryBlock
from memory_cores.layers.initialisation import fan_in_normal_

Observe = Callable[[QueryBlock, Tensor], None]
"""Is shown the attention weights (B, H, S, K) of every query block, without gradient and before dropout."""
Beside = Callable[[Tensor, Tensor], Tensor]
"""Is given the scaled queries (B, H, T, D / H), without positions, and the attention's output (B, T, D); returns what
the layer takes for that."""


class RelativePositions(NamedTuple):
    """What relative attention needs beside its own weights; shared by all layers."""

    table: Tensor
    """(N, D), sinusoids of distances that fall by one, from the farthest key's to the nearest's or -1."""
    farthest: int
    """The first distance of the table."""
    content_bias: Tensor
    """(H, 1, D / H), u of the paper."""
    position_bias: Tensor
    """(H, 1, D / H), v of the paper."""
    slot_distances: list[int]
    """For each query block, the distance of its first query from the last step of its first compressed slot."""
    compression_rate: int
    """Steps between the last steps of neighbouring compressed slots."""


class RotaryPositions(NamedTuple):
    """Cosines and sines, each (M + T, D / H / 2), of the positions of memory and call."""

    cosine: Tensor
    sine: Tensor


class MemoryAttention(nn.Module):
    """The projections that attention over a memory shares: queries of the call, keys and values of both.

    A memory (B, M, D) is compressed slots, if there are any, and then remembered steps; a slot's position is
    that of the last step that it stands for.
    """

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
        return x.view(*x.shape[:-1], self.num_heads, self.head_width).transpose(-3, -2)

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

    def forward(
        self,
        x: Tensor,
        memory: Tensor,
        blocks: list[QueryBlock],
        positions: RelativePositions,
        observe: Observe | None = None,
        beside: Beside | None = None,
    ) -> Tensor:
        """x (B, T, D) attends to memory (B, M, D) and itself where the blocks' masks allow -> (B, T, D)."""
        query, key, value = self.project(x, memory)
        distances = self.heads(self.position(self.dropout(positions.table)))
        distances = distances.transpose(-1, -2).contiguous()  # (H, D / H, N)
        content_query = (query + positions.content_bias) * self.scale
        position_query = (query + positions.position_bias) * self.scale
        contexts = []
        for block, slot_distance in zip(blocks, positions.slot_distances, strict=True):
            asking = position_query[:, :, block.start : block.stop]
            scores = content_query[:, :, block.start : block.stop] @ seen(key, block).transpose(-1, -2)
            first = positions.farthest - (scores.shape[-1] - block.num_slots - 1)
            at_distance = asking @ distances[..., first : positions.farthest + 2]
            penalty = torch.zeros_like(block.mask, dtype=scores.dtype).masked_fill_(~block.mask, -torch.inf)
            # in place, since the (B, H, S, K) scores are most of what a layer moves and none is needed twice
            scores[..., block.num_slots :].add_(relative_shift(at_distance))
            if block.num_slots:
                rate = positions.compression_rate
                last = positions.farthest - slot_distance + rate * block.num_slots
                scores[..., : block.num_slots].add_(
                    slot_position_scores(asking, distances[..., : last + 1], block.num_slots, rate)
                )
            weights = scores.add_(penalty).softmax(dim=-1)
            if observe is not None:
                observe(block, weights.detach())
            contexts.append(self.dropout(weights) @ seen(value, block))
        attended = self.merge(contexts)
        return attended if beside is None else beside(query * self.scale, attended)


class RotaryAttention(MemoryAttention):
    """Attention with rotary positions (Su et al., 2104.09864), which runs on torch's fused kernels.

    To be observed it computes its weights, without these kernels.
    """

    def forward(
        self,
        x: Tensor,
        memory: Tensor,
        blocks: list[QueryBlock],
        positions: RotaryPositions,
        observe: Observe | None = None,
        beside: Beside | None = None,
    ) -> Tensor:
        """x (B, T, D) attends to memory (B, M, D) and itself where the blocks' masks allow -> (B, T, D)."""
        unturned, key, value = self.project(x, memory)
        cosine, sine = positions
        query = rotate(unturned, cosine[-x.shape[1] :], sine[-x.shape[1] :])
        key = rotate(key, cosine, sine)
        dropout = self.dropout.p if self.training else 0.0
        contexts = []
        for block in blocks:
            asking = query[:, :, block.start : block.stop]
            if observe is None:
                contexts.append(
                    functional.scaled_dot_product_attention(
                        asking, seen(key, block), seen(value, block), block.mask, dropout
                    )
                )
            else:
                scores = (asking * self.scale) @ seen(key, block).transpose(-1, -2)
                weights = scores.masked_fill(~block.mask, -torch.inf).softmax(dim=-1)
                observe(block, weights.detach())
                contexts.append(self.dropout(weights) @ seen(value, block))
        attended = self.merge(contexts)
        return attended if beside is None else beside(unturned * self.scale, attended)


def seen(keys: Tensor, block: QueryBlock) -> Tensor:
    """Of keys or values (B, H, M + T, D / H) those that a query block sees."""
    slots, steps = block.slots, block.steps
    if slots.stop == steps.start:
        return keys[:, :, slots.start : steps.stop]
    return torch.cat([keys[:, :, slots], keys[:, :, steps]], dim=2)


def slot_position_scores(query: Tensor, distances: Tensor, slots: int, rate: int) -> Tensor:
    """The products (B, H, S, slots) of queries with the distances of slots whose last steps lie `rate` apart.

    query: (B, H, S, D / H) at S steps in a row. distances: (H, D / H, N), whose last column is one `rate`
    nearer than the newest slot is to the first query. Queries `rate` steps apart see the slots at the same
    distances but for a shift, so each of `rate` groups of queries is a relative attention of its own.
    """
    steps = query.shape[2]
    groups = -(-steps // rate)
    columns = groups + slots
    query = functional.pad(query, (0, 0, 0, groups * rate - steps))
    query = query.view(*query.shape[:2], groups, rate, query.shape[3])
    table = distances[..., distances.shape[-1] - rate * columns :]
    table = table.view(*table.shape[:2], columns, rate).flip(-1)
    scores = query.transpose(2, 3) @ table.permute(0, 3, 1, 2)  # (B, H, rate, S / rate, columns)
    scores = relative_shift(scores)[..., :slots]
    return scores.transpose(2, 3).flatten(2, 3)[:, :, :steps]
