"""The Routing Transformer (Roy et al., 2003.05997), causal and over a sliding past."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from memory_cores.attention.band_call import BandCall
from memory_cores.attention.band_transformer import BandOptions, BandTransformer
from memory_cores.attention.block import TransformerBlock
from memory_cores.attention.schedule import MemorySchedule
from memory_cores.core import SumInPlace
from memory_cores.options import at_least, probability
from memory_cores.routing.attention import LocalHeads, RoutedHeads, RoutingAttention
from memory_cores.routing.stream import RoutingStream


@dataclass(frozen=True, kw_only=True)
class RoutingOptions(BandOptions):
    """The options of `Routing`."""

    local_heads: int = 2
    """How many of the num_heads heads see the last local_window steps and not a cluster, below num_heads. The paper's
    models have half or more of them; without any, what just happened is found by its content alone."""
    local_window: int = 16
    """Steps before its own that a step sees in local heads, at most memory_length."""
    num_clusters: int = 4
    """Clusters of each routed head, at most memory_length. The paper takes the square root of the length; with more, a
    cluster is more specific and has fewer members."""
    window: int = 16
    """Latest members of its cluster that a step sees in routed heads, at most memory_length. num_clusters times window
    about memory_length lets most of the memory be seen; cost grows in proportion."""
    centroid_decay: float = 0.999
    """Decay of the moving averages that the centroids follow, per update (the authors' code has 0.999); in [0, 1). A
    lower one follows new data faster."""

    def problems(self, d_model: int) -> list[str]:
        problems = super().problems(d_model)
        sizes = at_least(1, num_layers=self.num_layers, num_clusters=self.num_clusters, window=self.window)
        sizes += at_least(0, local_heads=self.local_heads) + at_least(1, local_window=self.local_window)
        problems += sizes + probability(centroid_decay=self.centroid_decay)
        if not sizes and not at_least(1, num_heads=self.num_heads, memory_length=self.memory_length):
            if self.local_heads >= self.num_heads:
                problems.append(f"local_heads is {self.local_heads}, expected less than num_heads, {self.num_heads}")
            problems += [
                f"{name} is {value}, expected at most memory_length, {self.memory_length}"
                for name, value in (
                    ("local_window", self.local_window),
                    ("num_clusters", self.num_clusters),
                    ("window", self.window),
                )
                if value > self.memory_length
            ]
        return problems + at_least(1, memory_length=self.memory_length)

    def make_block(self, d_model: int) -> TransformerBlock:
        """A block with newly drawn weights and centroids."""
        width = d_model // self.num_heads
        local = LocalHeads(d_model, self.local_heads, width, self.local_window) if self.local_heads else None
        routed = RoutedHeads(
            d_model,
            self.num_heads - self.local_heads,
            width,
            window=self.window,
            num_clusters=self.num_clusters,
            decay=self.centroid_decay,
        )
        return self.block_around(RoutingAttention(d_model, self.dropout, local, routed), d_model)


class Routing(BandTransformer):
    """Routing Transformer: each step attends to the latest members of its cluster; gated by default.

    A routed head gives step t the centroid nearest to its key, and step t attends, among the last
    memory_length steps of its episode, to the last `window` that chose the same:

        c_t = argmax_c k_t . mu_c,   y_t = sum_j softmax_j(q_t . k_j / sqrt(W)) v_j,   c_j = c_t,  j < t

    where q = k are of one length. The published models choose the members of a cluster over the whole sequence, so that
    later steps decide what earlier ones see; here a step's choice depends on that step alone, so a stream can be
    stepped. A step attends to itself only where it has no other target, as its own key always fits best. Local heads
    beside the routed ones see the last local_window steps. The authors' commitment loss is left out.

    The centroids mu follow the keys by online k-means, in training alone and without gradients; they are buffers of the
    module, and `after_update` moves them. An independent plain loop is in tests/memory_cores/test_routing.py.

    State: memory (B, L, C, D), the last C = memory_length inputs of each layer, newest last, zeros where unused; age
    (B,) int64, steps of the episode, at most C; phase (B,) int64, 0.

    Metrics: the share of a call's steps in the largest cluster, the share of clusters that no step chose, the mean
    distance by which centroids last moved, and how many were placed anew since they had no members.

    >>> import memory_cores
    >>> core = memory_cores.build("routing", d_model=8, memory_length=16)
    >>> x, stream = torch.randn(2, 9, 8), core.stream(batch_size=2)
    >>> y = core(x, core.initial_state(batch_size=2)).y
    >>> stepped = torch.stack([stream.step(x[:, t]) for t in range(9)], dim=1)
    >>> torch.allclose(y, stepped, atol=1e-5)
    True
    """

    Options = RoutingOptions

    def __init__(self, d_model: int, options: RoutingOptions) -> None:
        schedule = MemorySchedule(options.memory_length, 1)
        super().__init__(
            d_model, options, schedule, lambda: [options.make_block(d_model) for _ in range(options.num_layers)]
        )

    @property
    def routed(self) -> list[RoutedHeads]:
        """The routed heads of each layer."""
        return [cast(RoutingAttention, cast(TransformerBlock, block).attention).routed for block in self.blocks]

    def after_update(self, sum_over_workers: SumInPlace | None = None) -> None:
        for heads in self.routed:
            heads.clusters.update(sum_over_workers)

    @torch.no_grad()
    def losses_and_metrics(self, call: BandCall) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        clusters = [heads.clusters for heads in self.routed]
        num_clusters = clusters[0].centroids.shape[1]
        shares = torch.stack(
            [
                torch.nn.functional.one_hot(chosen.flatten(1), num_clusters).float().mean(dim=1)
                for chosen in call.groups[: len(clusters)]
            ]
        )  # (L, H, clusters)
        return {}, {
            "largest_cluster": shares.amax(dim=-1).mean(),
            "empty_clusters": (shares == 0).float().mean(),
            "centroid_drift": torch.stack([kmeans.drift for kmeans in clusters]).mean(),
            "reseeded_centroids": torch.stack([kmeans.reseeded for kmeans in clusters]).sum(),
        }

    def stream(self, batch_size: int) -> RoutingStream:
        return RoutingStream(self, batch_size)
