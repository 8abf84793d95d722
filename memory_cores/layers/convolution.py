"""A causal depthwise convolution whose past inputs are state."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class CausalConvolution(nn.Module):
    """y_t = sum over k < taps of w_k * x_{t-k}, elementwise: the depthwise half of a separable convolution.

    Steps before the episode count as zeros (Chollet, 1610.02357).
    """

    def __init__(self, d_model: int, width: int) -> None:
        """width: the number of taps."""
        super().__init__()
        self.width = width
        self.taps = nn.Parameter(torch.empty(width, d_model))
        nn.init.normal_(self.taps, std=width**-0.5)

    def forward(self, x: Tensor, past: Tensor, episode: Tensor, steps: Tensor | None = None) -> Tensor:
        """The results (B, T, D) for x (B, T, D), or (B, A, D) at its `steps` (B, A) alone.

        past: (B, taps - 1, D), the inputs before x. episode: (B, T), where the episode of each step begins.
        """
        whole = torch.cat([past, x], dim=1)
        at = torch.arange(x.shape[1], device=x.device).expand(x.shape[:2]) if steps is None else steps
        begin = episode if steps is None else episode.gather(1, steps)
        result = torch.zeros_like(x) if steps is None else x.new_zeros(*steps.shape, x.shape[2])
        for back, tap in enumerate(self.taps):
            first = self.width - 1 - back
            if steps is None:
                seen = whole[:, first : first + x.shape[1]]
            else:
                seen = whole.gather(1, (steps + first)[..., None].expand(-1, -1, x.shape[2]))
            result = torch.addcmul(result, seen * (at - back >= begin)[..., None], tap)
        return result

    def step(self, x: Tensor, past: Tensor) -> Tensor:
        """The result (B, D) for x (B, D) after past (taps - 1, B, D), which is zero before the episode."""
        result = x * self.taps[0]
        if self.width > 1:
            result = result + (past * self.taps[1:].flip(0)[:, None]).sum(dim=0)
        return result
