"""Compression functions of the Compressive Transformer (Rae et al., 1911.05507, section 3.2)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from memory_cores.layers.initialisation import fan_in_normal_

Compression = Literal["max", "mean", "conv", "dilated_conv", "most_used"]
LEARNED = ("conv", "dilated_conv")


class Compressor(nn.Module):
    """f_c, which makes G / c compressed slots of each block of G steps that leaves one layer's memory.

    max, mean: pooling with kernel and stride c. conv: a convolution with kernel and stride c. dilated_conv: a
    convolution with kernel c, stride 1 and dilation G / c, so that each slot draws on the whole block; it is conv
    where G = c. most_used: the G / c steps that received the most attention, in their order. Steps of an earlier
    episode than the block's last are left out: the pools and the ranking skip them, the convolutions see zeros.
    """

    def __init__(self, compression: Compression, rate: int, d_model: int) -> None:
        super().__init__()
        self.compression = compression
        self.rate = rate
        if compression in LEARNED:
            self.conv = nn.Linear(rate * d_model, d_model)
            fan_in_normal_(self.conv)

    def forward(self, old: Tensor, kept: Tensor, usage: Tensor | None = None) -> Tensor:
        """The slots (B, N, G / c, D) of the steps old (B, N, G, D), of which those in kept (B, N, G) count.

        usage: (B, N, G), the attention that each step received, for most_used.
        """
        if usage is not None:
            return most_used(old, kept, usage, self.rate)
        steps, counts = self.arrange(old), self.arrange(kept[..., None])  # (B, N, G / c, c, D), (..., 1)
        if self.compression == "max":
            slots = steps.masked_fill(~counts, -torch.inf).amax(dim=3)
            slots = slots.masked_fill(~counts.any(dim=3), 0.0)
        elif self.compression == "mean":
            slots = (steps * counts).sum(dim=3) / counts.sum(dim=3).clamp(min=1)
        else:
            slots = self.conv((steps * counts).flatten(3))
        made: Tensor = slots
        return made

    def arrange(self, steps: Tensor) -> Tensor:
        """(B, N, G, D) -> (B, N, G / c, c, D), for each slot the c steps that it is made of."""
        batch, blocks, block_length, width = steps.shape
        slots = block_length // self.rate
        if self.compression == "dilated_conv":
            return steps.view(batch, blocks, self.rate, slots, width).transpose(2, 3)
        return steps.view(batch, blocks, slots, self.rate, width)


def slots_kept(kept: Tensor, rate: int) -> Tensor:
    """(B, N, G / c) bool, True for slots that stand for any of the steps kept (B, N, G)."""
    return kept.view(*kept.shape[:2], kept.shape[2] // rate, rate).any(dim=3)


def most_used(old: Tensor, kept: Tensor, usage: Tensor, rate: int) -> Tensor:
    """(B, N, G / c, D): of each block (B, N, G, D) the share 1 / c of the kept steps with the highest usage.

    They come in their order; where not all steps are kept, fewer slots are filled, the last ones.
    """
    slots = old.shape[2] // rate
    filled = slots_kept(kept, rate).sum(dim=2)  # (B, N)
    by_usage = usage.masked_fill(~kept, -torch.inf).argsort(dim=2, descending=True, stable=True)
    chosen = by_usage.argsort(dim=2) < filled[..., None]
    last_chosen = chosen.int().argsort(dim=2, stable=True)[:, :, old.shape[2] - slots :]
    return old.gather(2, last_chosen[..., None].expand(-1, -1, -1, old.shape[3]))
