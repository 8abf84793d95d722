"""How far back the steps of a core that attends to bands look, and which groups they fall into."""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor

from memory_cores.attention.band_stream import BandStream
from memory_cores.attention.band_transformer import BandTransformer
from memory_cores.attention.cached_block import CachedBlock
from memory_cores.attention.selected_attention import ChoosingAttention


class Recall(NamedTuple):
    """The attention of T steps of one stream."""

    weights: Tensor
    """(L, T, C + 1), the weight of the steps 0 to C steps back, mean over the heads that choose their steps."""
    groups: Tensor | None
    """(L, H, T) int64, the cluster or the bucket of the first round that each step falls into; None where steps are not
    grouped."""


@torch.no_grad()
def recall(core: BandTransformer, x: Tensor, reset: Tensor) -> Recall:
    """Where the attention of one stream goes that begins in the initial state. x: (1, T, D), reset: (1, T) bool."""
    steps, reach = x.shape[1], core.schedule.capacity + 1
    weights = torch.zeros(core.num_layers, steps, reach)
    stream = cast(BandStream, core.stream(1))
    for layer, block in enumerate(stream.blocks):
        cast(CachedBlock[ChoosingAttention], block).attention.watch = _Sum(weights[layer])
    for step in range(steps):
        stream.step(x[:, step], reset[:, step])
    groups = core.groups(x, reset)
    return Recall(weights, torch.stack(groups)[:, :, 0] if groups else None)


class _Sum:
    """Adds the weights of one step after another to the rows (T, C + 1) of a table."""

    def __init__(self, table: Tensor) -> None:
        self.table = table
        self.step = 0

    def __call__(self, distance: Tensor, weights: Tensor) -> None:
        reach = self.table.shape[1]
        mean = weights[:, 0].float() / len(weights)
        self.table[self.step].scatter_add_(0, distance[:, 0].clamp(0, reach - 1).flatten(), mean.flatten())
        self.step += 1
