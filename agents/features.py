"""Features of actions and observations: one-hot choices, and parts concatenated into one vector."""

from __future__ import annotations

import torch
from torch import Tensor


def one_hot(choice: Tensor, size: int) -> Tensor:
    """choice (...) int64 below `size` -> (..., size) float32.

    >>> one_hot(torch.tensor([2, 0]), 3)
    tensor([[0., 0., 1.],
            [1., 0., 0.]])
    """
    zeros = torch.zeros(*choice.shape, size, device=choice.device)
    return zeros.scatter_(-1, choice[..., None], 1.0)


def join_features(parts: list[Tensor]) -> Tensor:
    """The parts (..., F_i) concatenated along the last axis."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
