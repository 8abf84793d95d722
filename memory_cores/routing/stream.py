"""Single steps of a Routing Transformer, which touch only a window and the members of a cluster."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from memory_cores.attention.band_stream import BandStream
from memory_cores.attention.block import TransformerBlock
from memory_cores.attention.grouped_steps import CachedGroups
from memory_cores.attention.kv_cache import CachedAttention, StepView, pack
from memory_cores.attention.patterns import Run
from memory_cores.attention.selected_attention import ChoosingAttention
from memory_cores.core import State
from memory_cores.routing.attention import RoutingAttention


class RoutingStream(BandStream):
    """Steps a `Routing` core in O(D^2 + window * D) for each layer."""

    def step_attention(self, block: TransformerBlock, memory: Tensor, state: State) -> ChoosingAttention:
        attention = cast(RoutingAttention, block.attention)
        distances, routed = range(self.capacity + 1), attention.routed
        groups = CachedGroups(
            routed,
            self.cache(routed, memory, self.length, distances),
            memory,
            lambda key: routed.clusters.nearest(key)[None],
            routed.clusters.centroids.shape[1],
            routed.window,
            self.capacity,
        )
        local = None
        if attention.local is not None:
            cache = self.cache(attention.local, memory, self.length, distances)
            local = CachedAttention(attention.local, cache)
        return CachedRouting(attention, local, groups)


class CachedRouting(ChoosingAttention):
    """The local and the routed heads of one layer."""

    def __init__(self, module: RoutingAttention, local: CachedAttention | None, groups: CachedGroups) -> None:
        self.module, self.local, self.groups = module, local, groups
        self.key_value = pack(module.routed.key_value.weight)

    def attend(self, x: Tensor, seen: StepView) -> Tensor:
        """The attended values (B, D) of x (B, D), those of the local heads first."""
        key, _, value = self.module.routed.split(torch.mm(x, self.key_value))
        context = self.groups.attend(key, self.module.routed.gain, value, seen, self.watch).transpose(0, 1).flatten(1)
        if self.local is None or self.module.local is None:
            return context
        window = slice(seen.place - self.module.local.window, seen.place + 1)
        penalty = None if seen.penalty is None else seen.penalty[:, window]
        near = self.local.attend(x, StepView(seen.place, (Run(window),), penalty=penalty))
        return torch.cat([near, context], dim=1)

    def slide(self, count: int, place: int) -> None:
        self.groups.slide(count, place)
        if self.local is not None:
            self.local.slide(count, place)
