"""V-trace: off-policy corrected value targets (Espeholt et al., 1802.01561, section 4.1)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class VTrace(NamedTuple):
    """Targets of one batch of unrolls; carries no gradient."""

    values: Tensor
    """(B, T), the value targets v_s."""
    advantages: Tensor
    """(B, T), rho_s (r_s + gamma v_{s+1} - V(x_s)), the weights of the policy gradient."""
    rhos: Tensor
    """(B, T), the truncated importance weights min(rho_bar, pi / mu)."""


@torch.no_grad()
def vtrace(
    log_ratios: Tensor,
    discounts: Tensor,
    rewards: Tensor,
    values: Tensor,
    bootstrap_value: Tensor,
    valid: Tensor,
    rho_bar: float = 1.0,
    c_bar: float = 1.0,
    trace_decay: float = 1.0,
) -> VTrace:
    """Value targets and advantages of B unrolls of T steps.

    log_ratios: (B, T), log pi(a|x) - log mu(a|x). discounts: (B, T), gamma, or 0 where the step terminated the episode.
    rewards: (B, T). values: (B, T), V(x_t). bootstrap_value: (B,), V(x_T).
    valid: (B, T) bool, False at entries that are no transition (the final observation of a truncated episode): their
    target is their own value, so the step before them bootstraps from V(final observation) and nothing passes through.

        v_s = V(x_s) + delta_s + gamma_s c_s (v_{s+1} - V(x_{s+1}))
        delta_s = rho_s (r_s + gamma_s V(x_{s+1}) - V(x_s))
        rho_s = min(rho_bar, pi / mu),  c_s = lambda min(c_bar, pi / mu)

    On policy, with rho_bar and c_bar of 1, the targets are the discounted sums of what follows:

    >>> reward, zeros = torch.tensor([[0.0, 0.0, 1.0]]), torch.zeros(1, 3)
    >>> vtrace(zeros, zeros + 0.5, reward, zeros, torch.tensor([4.0]), valid=zeros == 0).values
    tensor([[0.7500, 1.5000, 3.0000]])
    """
    # The bound is applied to the logarithm: a ratio that would overflow is finite after it.
    rhos = log_ratios.clamp(max=math.log(rho_bar)).exp() * valid
    cs = trace_decay * log_ratios.clamp(max=math.log(c_bar)).exp() * valid
    next_values = torch.cat([values[:, 1:], bootstrap_value[:, None]], dim=1)
    deltas = rhos * (rewards + discounts * next_values - values)

    correction = torch.zeros_like(bootstrap_value)
    corrections = torch.empty_like(values)
    for t in reversed(range(values.shape[1])):
        correction = deltas[:, t] + discounts[:, t] * cs[:, t] * correction
        corrections[:, t] = correction
    targets = values + corrections
    next_targets = torch.cat([targets[:, 1:], bootstrap_value[:, None]], dim=1)
    advantages = rhos * (rewards + discounts * next_targets - values)
    return VTrace(targets, advantages, rhos)
