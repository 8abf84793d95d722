"""Computing a Transformer block for some steps of a call alone, those that adaptive computation has not halted."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from memory_cores.attention.attention import MemoryAttention, RelativeAttention, RelativePositions, RotaryPositions
from memory_cores.attention.positions import rotate
from memory_cores.attention.schedule import QueryBlock

CHOOSE_BELOW = 0.7
"""Steps are chosen, which takes gathering and scattering, once they are less than this share of all."""


class Chosen(NamedTuple):
    """The steps that a block is computed for: the running ones of a call, filled up to Q in each row, or all T."""

    running: Tensor
    """(B, T) bool, the steps whose results count."""
    steps: Tensor | None
    """(B, Q) int64, all steps if None."""
    counts: list[int]
    """How many of the Q lie in each query block."""

    @property
    def none(self) -> bool:
        """Whether no step of any row is running."""
        return not any(self.counts)

    def of(self, x: Tensor) -> Tensor:
        """(B, T, ...) -> (B, Q, ...)."""
        if self.steps is None:
            return x
        index = self.steps.view(*self.steps.shape, *[1] * (x.dim() - 2))
        return x.gather(1, index.expand(-1, -1, *x.shape[2:]))

    def into(self, old: Tensor, computed: Tensor) -> Tensor:
        """old (B, T, ...) with computed (B, Q, ...) in the place of the running steps."""
        running = self.running.view(*self.running.shape, *[1] * (old.dim() - 2))
        computed = computed.to(old.dtype)
        if self.steps is None:
            return torch.where(running, computed, old)
        index = self.steps.view(*self.steps.shape, *[1] * (old.dim() - 2))
        kept = torch.where(self.of(running), computed, self.of(old))
        return old.scatter(1, index.expand(-1, -1, *old.shape[2:]), kept)


def choose(running: Tensor, blocks: list[QueryBlock]) -> Chosen:
    """The steps to compute where those in running (B, T) are wanted."""
    in_blocks = torch.stack([running[:, block.start : block.stop].sum(dim=1).amax() for block in blocks])
    counts: list[int] = in_blocks.tolist()
    if sum(counts) >= CHOOSE_BELOW * running.shape[1]:
        return Chosen(running, None, [block.stop - block.start for block in blocks])
    steps = []
    for block, count in zip(blocks, counts, strict=True):
        running_first = running[:, block.start : block.stop].int().argsort(dim=1, descending=True, stable=True)
        steps.append(block.start + running_first[:, :count])
    return Chosen(running, torch.cat(steps, dim=1), counts)


def attend(
    attention: MemoryAttention,
    x: Tensor,
    memory: Tensor,
    blocks: list[QueryBlock],
    positions: RelativePositions | RotaryPositions,
    chosen: Chosen,
) -> Tensor:
    """attention(x, memory, blocks, positions) at the chosen steps (B, Q, D), where no memory is compressed.

    x: (B, T, D). memory: (B, M, D).
    """
    if chosen.steps is None:
        every: Tensor = attention(x, memory, blocks, positions)
        return every
    query = attention.heads(functional.linear(chosen.of(x), attention.qkv.weight[: x.shape[2]]))
    key, value = (attention.heads(entries) for entries in attention.project_memory(torch.cat([memory, x], dim=1)))
    if isinstance(positions, RotaryPositions):
        first = positions.cosine.shape[0] - x.shape[1]
        angles = (table[chosen.steps + first][:, None] for table in positions)  # (B, 1, Q, D / H / 2)
        query, key = rotate(query, *angles), rotate(key, *positions)
    contexts = []
    start = 0
    for block, count in zip(blocks, chosen.counts, strict=True):
        asking = query[:, :, start : start + count]
        step = chosen.steps[:, start : start + count] - block.start  # (B, Q)
        start += count
        keys, values = key[:, :, block.steps], value[:, :, block.steps]
        if isinstance(positions, RelativePositions):
            assert isinstance(attention, RelativeAttention)
            scores = relative_scores(
                attention, asking, keys, step + keys.shape[2] - block.stop + block.start, positions
            )
        else:
            scores = (asking * attention.scale) @ keys.transpose(-1, -2)
        mask = block.mask[:, 0].gather(1, step[..., None].expand(-1, -1, keys.shape[2]))
        weights = scores.masked_fill(~mask[:, None], -torch.inf).softmax(dim=-1)
        contexts.append(attention.dropout(weights) @ values)
    return attention.merge(contexts)


def relative_scores(
    attention: RelativeAttention, query: Tensor, key: Tensor, place: Tensor, positions: RelativePositions
) -> Tensor:
    """The scores (B, H, Q, K) of queries (B, H, Q, D / H) that sit at `place` (B, Q) of the keys (B, H, K, D / H)."""
    distances = attention.heads(attention.position(attention.dropout(positions.table))).transpose(-1, -2)
    content = (query + positions.content_bias) * attention.scale @ key.transpose(-1, -2)
    at_distance = (query + positions.position_bias) * attention.scale @ distances  # (B, H, Q, N)
    ahead = place[..., None] - torch.arange(key.shape[2], device=key.device)  # (B, Q, K), steps from key to query
    column = positions.farthest - ahead.clamp(min=-1)  # what comes later is masked
    scores: Tensor = content + at_distance.gather(3, column[:, None].expand(-1, query.shape[1], -1, -1))
    return scores
