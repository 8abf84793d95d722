"""Attention of the Reformer: each step sees the members of its hash buckets."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from memory_cores.attention.attention import merge_heads
from memory_cores.attention.band_call import BandCall
from memory_cores.attention.grouped import grouped_attention
from memory_cores.attention.shared_heads import SharedHeads
from memory_cores.layers.initialisation import fan_in_normal_
from memory_cores.reformer.hashing import buckets, rotations


class HashedAttention(SharedHeads):
    """Attention among the last `window` members of a step's bucket, in several rounds of hashing (Kitaev et al.,
    2001.04451, section 2), with queries that are the keys before they are brought to unit length."""

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        dropout: float,
        *,
        layer: int,
        num_hashes: int,
        num_buckets: int,
        window: int,
    ) -> None:
        """layer: the number of the layer, which draws rotations of its own."""
        super().__init__(d_model, num_heads, d_model // num_heads)
        self.layer, self.num_hashes, self.num_buckets, self.window = layer, num_hashes, num_buckets, window
        self.scale = self.head_width**-0.5
        self.output = nn.Linear(d_model, d_model, bias=False)
        self.dropout = nn.Dropout(dropout)
        fan_in_normal_(self.output)

    def forward(self, x: Tensor, memory: Tensor, call: BandCall, seeds: Tensor) -> Tensor:
        """x (B, T, D) attends to memory (B, M, D) and itself -> (B, T, D). seeds: (B,) int64, of the rotations."""
        key, length, value = self.project(torch.cat([memory, x], dim=1))
        group = self.hash(key, self.rotations(seeds, key))
        call.groups.append(group[0, :, :, -x.shape[1] :])
        context = grouped_attention(
            call.turn(key), self.scale * length, value, group, call.begin, self.window, x.shape[1]
        )
        attended: Tensor = self.dropout(self.output(merge_heads(context)))
        return attended

    def rotations(self, seeds: Tensor, like: Tensor) -> Tensor:
        """The rotations (B or 1, rounds, H, W, num_buckets / 2) of this layer for seeds (B,)."""
        shape = self.num_hashes, self.num_heads, self.head_width, self.num_buckets
        return rotations(seeds, self.layer, *shape).to(like)

    def hash(self, key: Tensor, rotations: Tensor) -> Tensor:
        """(rounds, H, B, N) int64, the buckets of unit keys (H, B, N, W)."""
        if self.num_buckets == 1:
            return torch.zeros(self.num_hashes, *key.shape[:-1], dtype=torch.int64, device=key.device)
        return buckets(key.detach(), rotations)
