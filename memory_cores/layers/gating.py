"""The GRU gate that replaces a residual connection in GTrXL (Parisotto et al., 1910.06764, section 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from memory_cores.layers.initialisation import fan_in_normal_


class GRUGate(nn.Module):
    """g(x, y) = (1 - z) x + z h of the stream x and a sublayer's output y.

    r = sigmoid(W_r y + U_r x), z = sigmoid(W_z y + U_z x - b), h = tanh(W_g y + U_g (r x)). b starts at 2, so
    that the block starts close to the identity. The six matrices are fused into two: one for r and z, one for h.
    """

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.reset_update = nn.Linear(2 * d_model, 2 * d_model, bias=False)
        self.candidate = nn.Linear(2 * d_model, d_model, bias=False)
        self.bias = nn.Parameter(torch.empty(d_model))
        fan_in_normal_(self.reset_update)
        fan_in_normal_(self.candidate)
        nn.init.constant_(self.bias, 2.0)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """x, y (..., D) -> (..., D)."""
        gates: Tensor = self.reset_update(torch.cat([y, x], dim=-1))
        reset, update = gates.chunk(2, dim=-1)
        candidate: Tensor = self.candidate(torch.cat([y, reset.sigmoid() * x], dim=-1)).tanh()
        return x + (update - self.bias).sigmoid() * (candidate - x)
