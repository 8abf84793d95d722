"""Running mean and variance of a policy's inputs, by which they are normalised."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from memory_cores.core import SumInPlace

LIMIT = 5.0
"""Bound on a normalised input, so that a value that is seen for the first time does not dominate the others."""
SMALLEST_STD = 1e-8
"""Below it an input counts as constant; so it does where it varies by no more than its mean is rounded."""


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
        """x: (N, *shape) -> (N, *shape), float32 unless x is of another float dtype."""
        dtype = x.dtype if x.is_floating_point() else torch.float32
        rounding = torch.finfo(x.dtype if x.is_floating_point() else torch.float64).eps
        std = (self.squares / self.count.clamp(min=1)).sqrt()
        std = torch.where(self.count > 0, std.clamp(min=SMALLEST_STD).maximum(rounding * self.mean.abs()), 1.0)
        # Not after a cast: of 10^8 and 10^8 + 1 float32 would make one number.
        return ((x.double() - self.mean) / std).clamp(-LIMIT, LIMIT).to(dtype)

    def update(self, x: Tensor, sum_over_learners: SumInPlace | None = None) -> None:
        """Take inputs x (N, *shape) into account (Chan et al., 1979); of several learners those of all of them."""
        deviation = x.double() - self.mean
        sums = torch.stack([deviation.sum(0), self.count.new_full(self.mean.shape, len(x))])
        if sum_over_learners is not None:
            sum_over_learners(sums)
        shift, count = sums[0] / sums[1], sums[1]
        # About the mean of the batch: squares about a mean that is far from it would cancel.
        squares = (deviation - shift).square().sum(0)
        if sum_over_learners is not None:
            sum_over_learners(squares)
        total = self.count + count
        self.squares += squares + shift.square() * self.count * count / total
        self.mean += shift * count / total
        self.count.copy_(total.flatten()[0])
