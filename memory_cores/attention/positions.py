"""How attention knows distance: Transformer-XL's sinusoids of the relative position, or rotary embeddings."""

from __future__ import annotations

import torch
from torch import Tensor


def sinusoids(positions: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """(N, width): the sines, then the cosines, of `positions` (N,) at width / 2 frequencies.

    Dai et al., 1901.02860, section 3.3, after Vaswani et al., 1706.03762, section 3.5.
    """
    angles = rotary_angles(positions, width)
    return torch.cat([angles.sin(), angles.cos()], dim=-1).to(dtype)


def rotary_angles(positions: Tensor, width: int) -> Tensor:
    """(N, width / 2) float64: position * 10000^(-2i / width).

    Computed in float64, since float32 loses the small differences between large angles.
    """
    exponents = torch.arange(0, width, 2, device=positions.device, dtype=torch.float64) / width
    return positions.to(torch.float64)[:, None] * 10000.0**-exponents


def rotary_table(positions: Tensor, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines, each (N, width / 2), that `rotate` turns vectors at `positions` (N,) by."""
    angles = rotary_angles(positions, width)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """x (..., N, width) with each pair (x_i, x_{i + width/2}) turned by its angle (Su et al., 2104.09864).

    cosine, sine: (N, width / 2). A product of two rotated vectors depends on the difference of their
    positions alone.
    """
    first, second = x.chunk(2, dim=-1)
    turned = torch.cat([first * cosine - second * sine, first * sine + second * cosine], dim=-1)
    return turned.to(x.dtype)


def relative_shift(scores: Tensor) -> Tensor:
    """Align scores (..., S, K + 1) of S queries at the distances K - 1, ..., 0, -1 with the K keys.

    Query i sits at key K - S + i, so its row moves left by S - 1 - i; that is a view with the row stride K,
    no copy. Entries right of the query's own key are meaningless and must be masked. Dai et al., 1901.02860,
    appendix B.
    """
    queries, keys = scores.shape[-2], scores.shape[-1] - 1
    moved = scores.flatten(-2)[..., queries - 1 : queries - 1 + queries * keys]
    return moved.view(*scores.shape[:-1], keys)
