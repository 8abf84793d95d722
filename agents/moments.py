"""Running mean and variance of a policy's inputs, by which they are normalised."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.process_group import SumInPlace

LIMIT = 5.0
"""Bound on a normalised input, so that a value that is seen for the first time does not dominate the others."""
VARIANCE_FLOOR = 1e-5


class RunningMoments(nn.Module):
    """Subtracts the mean of all inputs so far and divides by their standard deviation; before any, it only
    bounds them.

    Moments are buffers: they are saved, and travel to actors, with the weights.

    >>> moments = RunningMoments((2,))
    >>> moments.update(torch.tensor([[1.0, 10.0], [3.0, 30.0]]))
    >>> moments(torch.tensor([[3.0, 20.0]]))
    tensor([[1., 0.]])
    """

    count: Tensor
    mean: Tensor
    squares: Tensor
    """Sum of squared deviations from the mean."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("squares", torch.zeros(shape, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, *shape) -> (N, *shape)."""
        variance = torch.where(self.count > 0, self.squares / self.count.clamp(min=1), 1.0)
        scale = variance.clamp(min=VARIANCE_FLOOR).rsqrt()
        return ((x - self.mean.to(x.dtype)) * scale.to(x.dtype)).clamp(-LIMIT, LIMIT)

    def update(self, x: Tensor, sum_over_learners: SumInPlace | None = None) -> None:
        """Take inputs x (N, *shape) into account (Chan et al., 1979); of several learners those of all of them."""
        deviation = x.double() - self.mean
        count = self.count.new_full(self.mean.shape, len(x))
        sums = torch.stack([deviation.sum(0), deviation.square().sum(0), count])
        if sum_over_learners is not None:
            sum_over_learners(sums)
        shift, squares, count = sums
        total = self.count + count
        self.squares += squares - shift.square() / total
        self.mean += shift / total
        self.count.copy_(total.flatten()[0])
