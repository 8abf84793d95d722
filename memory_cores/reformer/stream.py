"""Single steps of a Reformer, which touch only the members of a step's hash buckets."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from memory_cores.attention.band_stream import BandStream
from memory_cores.attention.block import TransformerBlock
from memory_cores.attention.cached_block import CachedBlock
from memory_cores.attention.grouped_steps import CachedGroups
from memory_cores.attention.kv_cache import StepView, pack
from memory_cores.attention.selected_attention import ChoosingAttention
from memory_cores.core import State
from memory_cores.reformer.attention import HashedAttention


class ReformerStream(BandStream):
    """Steps a `Reformer` core in O(D^2 + num_hashes * window * D) for each layer."""

    def cached_blocks(self, state: State) -> list[CachedBlock[Any]]:
        self.seed = state["seed"].clone()
        return super().cached_blocks(state)

    def state(self) -> State:
        return super().state() | {"seed": self.seed.clone()}

    def step_attention(self, block: TransformerBlock, memory: Tensor, state: State) -> ChoosingAttention:
        attention = cast(HashedAttention, block.attention)
        rotations = attention.rotations(state["seed"], memory)
        groups = CachedGroups(
            attention,
            self.cache(attention, memory, self.length, range(self.capacity + 1)),
            memory,
            lambda key: attention.hash(key, rotations),
            attention.num_buckets,
            attention.window,
            self.capacity,
        )
        return CachedHashing(attention, groups)


class CachedHashing(ChoosingAttention):
    """The hashed heads of one layer."""

    def __init__(self, module: HashedAttention, groups: CachedGroups) -> None:
        self.module, self.groups = module, groups
        self.key_value = pack(module.key_value.weight)

    def attend(self, x: Tensor, seen: StepView) -> Tensor:
        """The attended values (B, D) of x (B, D)."""
        key, length, value = self.module.split(torch.mm(x, self.key_value))
        context = self.groups.attend(key, self.module.scale * length, value, seen, self.watch)
        return context.transpose(0, 1).flatten(1)

    def slide(self, count: int, place: int) -> None:
        self.groups.slide(count, place)
