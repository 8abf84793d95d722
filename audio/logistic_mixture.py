"""A mixture of logistics over equally spaced levels (PixelCNN++; Salimans et al., 1701.05517, equations 1 to 3).

Level k of L stands for the sample x_k = 2 k / (L - 1) - 1 and for the interval of half a step h = 1 / (L - 1) around
it; the outer ones reach to infinity, so the probabilities of all levels sum to 1:

    P(k) = sum_i pi_i [ sigma((x_k + h - mu_i) / s_i) - sigma((x_k - h - mu_i) / s_i) ]

The difference is taken as sigma(a) - sigma(b) = sigma(a) sigma(-b) (1 - e^(b - a)), whose logarithm is exact in
float32 also where a 16-bit step is far narrower than s or lies far in a tail.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

MIN_LOG_SCALE = -12.0
"""A fifth of a 16-bit step; narrower says nothing more."""


class LogisticMixture(NamedTuple):
    """Mixtures of logistics, the components, over `levels` levels.

    The probabilities of all levels sum to 1, however far out the logistics are:

    >>> mixture = from_parameters(torch.tensor([0.0, 1.0, -0.5, 2.0, -1.0, 0.0]), levels=256)
    >>> bool(mixture.log_prob(torch.arange(256)[:, None]).exp().sum().isclose(torch.tensor(1.0)))
    True
    """

    logits: Tensor
    """(..., components), of the weights pi."""
    means: Tensor
    """(..., components)"""
    log_scales: Tensor
    """(..., components)"""
    levels: int

    def log_prob(self, targets: Tensor) -> Tensor:
        """log P (...) of levels (...) int64."""
        half_step = 1 / (self.levels - 1)
        centred = (2 * half_step * targets - 1)[..., None] - self.means
        per_scale = torch.exp(-self.log_scales)
        above, below = (centred + half_step) * per_scale, (centred - half_step) * per_scale
        inside = F.logsigmoid(above) + F.logsigmoid(-below) + torch.log(-torch.expm1(-2 * half_step * per_scale))
        lowest, highest = (targets == 0)[..., None], (targets == self.levels - 1)[..., None]
        interval = torch.where(lowest, F.logsigmoid(above), torch.where(highest, F.logsigmoid(-below), inside))
        return torch.logsumexp(self.logits.log_softmax(-1) + interval, dim=-1)

    def sample(self, temperature: float = 1.0, generator: torch.Generator | None = None) -> Tensor:
        """Levels (...) int64, drawn with the weights' logits divided by `temperature` and the scales multiplied by it.

        A temperature of 0 takes the mean of the weightiest logistic.
        """
        if temperature == 0:
            chosen = self.logits.argmax(-1, keepdim=True)
        else:
            weights = (self.logits / temperature).softmax(-1).flatten(0, -2)
            chosen = torch.multinomial(weights, 1, generator=generator).reshape(*self.logits.shape[:-1], 1)
        mean, log_scale = (part.gather(-1, chosen)[..., 0] for part in (self.means, self.log_scales))
        uniform = torch.rand(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
        x = mean + temperature * log_scale.exp() * torch.logit(uniform, eps=1e-7)
        return ((x.clamp(-1, 1) + 1) / 2 * (self.levels - 1)).round().long()


def from_parameters(parameters: Tensor, levels: int) -> LogisticMixture:
    """The mixture of parameters (..., 3 * components): logits, means, logarithms of scales, the last bounded below."""
    logits, means, log_scales = parameters.float().chunk(3, dim=-1)
    return LogisticMixture(logits, means, log_scales.clamp(min=MIN_LOG_SCALE), levels)
