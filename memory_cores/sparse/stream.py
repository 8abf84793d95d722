"""Single steps of a Sparse Transformer, which touch only the cells of its pattern."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from memory_cores.attention.band_stream import BandStream
from memory_cores.attention.block import TransformerBlock
from memory_cores.attention.kv_cache import KeyValueCache, StepView
from memory_cores.attention.selected_attention import ChoosingAttention, SelectedAttention
from memory_cores.core import State
from memory_cores.sparse.attention import SparseAttention


class SparseStream(BandStream):
    """Steps a `Sparse` core in O(D^2 + cells * D) for each layer."""

    def step_attention(self, block: TransformerBlock, memory: Tensor, state: State) -> ChoosingAttention:
        attention = cast(SparseAttention, block.attention)
        return CachedSparseAttention(attention, self.cache(attention, memory, self.length, range(self.capacity + 1)))


class CachedSparseAttention(SelectedAttention):
    """Selects the cells of a pattern."""

    def __init__(self, module: SparseAttention, steps: KeyValueCache) -> None:
        super().__init__(module, steps)
        self.pattern = module
        self.chosen: dict[int, tuple[Tensor, Tensor]] = {}
        """For each phase how many steps back the cells lie (H, 1, K) int64, and what is added to their scores (H, 1,
        K): -inf where a head sees fewer."""

    def select(self, seen: StepView) -> tuple[Tensor, Tensor]:
        phase = seen.place - seen.turn
        if phase not in self.chosen:
            distance = self.pattern.distances(phase)[:, None].to(self.qkv.device)
            hidden = torch.zeros_like(distance, dtype=self.qkv.dtype).masked_fill(distance < 0, -torch.inf)
            self.chosen[phase] = distance.clamp(min=0), hidden
        distance, penalty = self.chosen[phase]
        places = seen.place - distance
        if seen.penalty is not None:
            penalty = penalty + seen.penalty[:, places[:, 0]].transpose(0, 1)
        return places, penalty
