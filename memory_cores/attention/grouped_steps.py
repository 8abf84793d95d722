"""Single steps of attention to the latest members of a group, which touch only those members."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from memory_cores.attention.kv_cache import KeyValueCache, StepView
from memory_cores.attention.rings import Rings
from memory_cores.attention.selected_attention import Watch, attend_to_places
from memory_cores.attention.shared_heads import SharedHeads

ChooseGroup = Callable[[Tensor], Tensor]
"""The groups (rounds, H, B, N) int64 of unit keys (H, B, N, W)."""


class CachedGroups:
    """The members of groups of one layer's shared heads, for single steps."""

    def __init__(
        self,
        heads: SharedHeads,
        cache: KeyValueCache,
        memory: Tensor,
        choose: ChooseGroup,
        num_groups: int,
        window: int,
        memory_length: int,
    ) -> None:
        """memory: (B, M, D), the entries that fill the first places of the cache."""
        self.heads, self.cache, self.choose, self.memory_length = heads, cache, choose, memory_length
        key, _, _ = heads.project(memory)
        self.rings = Rings(choose(key), num_groups, window)

    def attend(self, key: Tensor, gain: Tensor | float, value: Tensor, seen: StepView, watch: Watch | None) -> Tensor:
        """Cache a step's unit key and value (H, B, W), and let gain * key attend -> (H, B, W)."""
        place = seen.place
        group = self.choose(key[:, :, None])[..., 0]
        turned = self.cache.turn(key, self.cache.stride * place)
        self.cache.buffer[0, :, :, place] = turned
        self.cache.buffer[1, :, :, place] = value
        members = self.rings.members(group)
        is_seen = members >= max(0, place - self.memory_length)
        if seen.penalty is not None:
            penalty = seen.penalty.expand(len(members), -1, -1).gather(-1, members.clamp(min=0))
            is_seen &= penalty == 0
        self.rings.add(group, place)
        # The step itself comes last, and is seen where nothing else is.
        places = torch.cat([members.clamp(min=0), torch.full_like(members[..., :1], place)], dim=-1)
        is_seen = torch.cat([is_seen, ~is_seen.any(dim=-1, keepdim=True)], dim=-1)
        penalty = torch.zeros_like(places, dtype=key.dtype).masked_fill(~is_seen, -torch.inf)
        context, weights = attend_to_places(self.cache, turned * gain, places, penalty)
        if watch is not None:
            watch(place - places, weights)
        return context

    def slide(self, count: int, place: int) -> None:
        """Move the `count` cached steps before `place` to the front."""
        self.cache.slide(count, place)
        self.rings.slide(place - count)
