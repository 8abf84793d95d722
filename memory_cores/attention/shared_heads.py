"""Heads whose queries are their keys, so that a step and those that it should find fall into the same group."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from memory_cores.layers.initialisation import fan_in_normal_

EPSILON = 1e-12
"""Added to squared norms, so that the gradient at a zero vector is finite."""


class SharedHeads(nn.Module):
    """The projections to keys of unit length, which are also the queries, and to values, of H heads of width W."""

    def __init__(self, d_model: int, num_heads: int, head_width: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_width = head_width
        self.key_value = nn.Linear(d_model, 2 * num_heads * head_width, bias=False)
        fan_in_normal_(self.key_value)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Unit keys (H, ..., W), the lengths (H, ..., 1) that they had, and values (H, ..., W), of x (..., D)."""
        return self.split(self.key_value(x))

    def split(self, projected: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`project`, of what `key_value` gives (..., 2 H W)."""
        key, value = torch.unflatten(projected, -1, (2, self.num_heads, self.head_width)).movedim((-3, -2), (0, 1))
        wide = key.to(torch.promote_types(key.dtype, torch.float32))
        length = (wide.square().sum(dim=-1, keepdim=True) + EPSILON).sqrt()
        return wide / length, length, value

    def project_heads(self, entries: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values, each (H, B, N, W), of entries (B, N, D)."""
        key, _, value = self.project(entries)
        return key, value
