"""Attention of the Routing Transformer: some heads see a window, others the members of a cluster."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from memory_cores.attention.attention import Heads, merge_heads
from memory_cores.attention.band_call import BandCall
from memory_cores.attention.grouped import grouped_attention
from memory_cores.attention.shared_heads import SharedHeads
from memory_cores.attention.window import window_attention
from memory_cores.layers.initialisation import fan_in_normal_
from memory_cores.routing.kmeans import OnlineKMeans


class LocalHeads(Heads):
    """Heads that see the last `window` steps and themselves."""

    def __init__(self, d_model: int, num_heads: int, head_width: int, window: int) -> None:
        super().__init__(d_model, num_heads, head_width)
        self.window = window
        fan_in_normal_(self.qkv)

    def forward(self, x: Tensor, memory: Tensor, call: BandCall) -> Tensor:
        """The attended values (H, B, T, W) of x (B, T, D), which sees memory (B, M, D) and itself."""
        query, key, value = (self.heads(part) for part in self.project(x, memory))
        query = call.turn(query) * self.scale
        context, _ = window_attention(query, call.turn(key), value, call.begin, self.window)
        return context


class RoutedHeads(SharedHeads):
    """Heads that see the last `window` members of a step's cluster."""

    def __init__(
        self, d_model: int, num_heads: int, head_width: int, *, window: int, num_clusters: int, decay: float
    ) -> None:
        super().__init__(d_model, num_heads, head_width)
        self.window = window
        self.gain = head_width**0.5
        """From a unit key to a query: keys and queries of length sqrt(W), as after a norm, whose product is scaled by 1
        / sqrt(W)."""
        self.clusters = OnlineKMeans(num_heads, num_clusters, head_width, decay)

    def forward(self, x: Tensor, memory: Tensor, call: BandCall) -> tuple[Tensor, Tensor]:
        """The attended values (H, B, T, W) of x (B, T, D), which sees memory (B, M, D) and itself, and the clusters (H,
        B, T) of its steps."""
        num_queries = x.shape[1]
        key, _, value = self.project(torch.cat([memory, x], dim=1))
        cluster = self.clusters.nearest(key)
        chosen = cluster[:, :, -num_queries:]
        if self.training and torch.is_grad_enabled():
            self.clusters.observe(key[:, :, -num_queries:], chosen)
        gain = key.new_full((1, 1, 1, 1), self.gain)
        turned = call.turn(key)
        return grouped_attention(turned, gain, value, cluster[None], call.begin, self.window, num_queries), chosen


class RoutingAttention(nn.Module):
    """Local heads beside routed heads (Roy et al., 2003.05997)."""

    def __init__(self, d_model: int, dropout: float, local: LocalHeads | None, routed: RoutedHeads) -> None:
        super().__init__()
        self.local = local
        self.routed = routed
        self.output = nn.Linear(d_model, d_model, bias=False)
        self.dropout = nn.Dropout(dropout)
        fan_in_normal_(self.output)

    def forward(self, x: Tensor, memory: Tensor, call: BandCall) -> Tensor:
        """x (B, T, D) attends to memory (B, M, D) and itself -> (B, T, D)."""
        context, cluster = self.routed(x, memory, call)
        call.groups.append(cluster)
        if self.local is not None:
            context = torch.cat([self.local(x, memory, call), context])
        attended: Tensor = self.dropout(self.output(merge_heads(context)))
        return attended
