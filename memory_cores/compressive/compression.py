"""Compression functions of the Compressive Transformer (Rae et al., 1911.05507, section 3.2)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from memory_cores.layers.initialisation import fan_in_normal_

Compression = Literal["max", "mean", "conv", "dilated_conv", "most_used"]
LEARNED = ("conv", "dilated_conv")


class Compressor(nn.Module):
    """f_c, which turns each block of G steps that leaves one layer's memory into G / c compressed slots.

    max, mean: pooling with kernel and stride c. conv: a convolution with kernel and stride c. dilated_conv: a
    convolution with kernel c, stride 1 and dilation G / c, so that each slot draws on the whole block; it is conv
    where G = c. most_used: the G / c steps that received the most attention, in their order. Steps of an
    earlier episode than that of the block's last step are left out: pooling and ranking skip them, and convolutions see
    zeros in their place.
    """

    def __init__(self, compression: Compression, rate: int, d_model: int) -> None:
        super().__init__()
        self.compression = compression
        self.rate = rate
        if compression in LEARNED:
            self.conv = nn.Linear(rate * d_model, d_model)
            fan_in_normal_(self.conv)

    def forward(self, old: Tensor, kept: Tensor, usage: Tensor | None = None) -> Tensor:
        """The slots (B, R, G / c, D) of the steps old (B, R, G, D), of which those where kept (B, R, G) count.

        usage: (B, R, G), the attention that each step received, for most_used.
        """
        if usage is not None:
            return most_used(old, kept, usage, self.rate)
        steps, counts = self.arrange(old), self.arrange(kept[..., None])  # (B, R, G / c, c, D), (..., 1)
        if self.compression == "max":
            slots = steps.masked_fill(~counts, -torch.inf).amax(dim=3)
            slots = slots.masked_fill(~counts.any(dim=3), 0.0)
        elif self.compression == "mean":
            slots = (steps * counts).sum(dim=3) / counts.sum(dim=3).clamp(min=1)
        else:
            slots = self.conv((steps * counts).flatten(3))
        result: Tensor = slots
        return result

    def arrange(self, steps: Tensor) -> Tensor:
        """(B, R, G, D) -> (B, R, G / c, c, D), for each slot the c steps that it is made of."""
        batch, blocks, block_length, width = steps.shape
        slots = block_length // self.rate
        if self.compression == "dilated_conv":
            return steps.view(batch, blocks, self.rate, slots, width).transpose(2, 3)
        return steps.view(batch, blocks, slots, self.rate, width)


def slot_mask(kept: Tensor, rate: int) -> Tensor:
    """(B, R, G / c) bool, True for slots that stand for at least one step where kept (B, R, G)."""
    return kept.view(*kept.shape[:2], kept.shape[2] // rate, rate).any(dim=3)


def most_used(old: Tensor, kept: Tensor, usage: Tensor, rate: int) -> Tensor:
    """(B, R, G / c, D): from each block of old (B, R, G, D), the kept steps with the highest usage (B, R, G), in order.

    One step in c is taken. Where not all steps are kept (B, R, G), fewer slots are filled, the last ones.
    """
    slots = old.shape[2] // rate
    filled = slot_mask(kept, rate).sum(dim=2)  # (B, R)
    by_usage = usage.masked_fill(~kept, -torch.inf).argsort(dim=2, descending=True, stable=True)
    chosen = by_usage.argsort(dim=2) < filled[..., None]
    last_chosen = chosen.int().argsort(dim=2, stable=True)[:, :, old.shape[2] - slots :]
    return old.gather(2, last_chosen[..., None].expand(-1, -1, -1, old.shape[3]))
