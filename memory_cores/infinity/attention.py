"""One layer's continuous attention to its long-term memory, and that memory in the course of a call.

Martins et al., 2109.00301, "∞-former: Infinite Memory Transformer".
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from memory_cores.infinity.schedule import Turns
from memory_cores.infinity.signal import GaussianBasis, SignalOperators
from memory_cores.infinity.sticky import StickySampler
from memory_cores.layers.initialisation import fan_in_normal_

MIN_VARIANCE = 1e-6


class Density(NamedTuple):
    """Where in [0, 1] queries attend: the Gaussians N(mean, variance), both (B, H, T)."""

    mean: Tensor
    variance: Tensor


class LongTermKeys(NamedTuple):
    """What queries read of a long-term memory."""

    logits: Tensor
    """(B, H, W, 2), the keys of the J basis functions, weighted and summed for the logits of mean and variance."""
    values: Tensor
    """(B, H, J, W)"""


class LongTermAttention(nn.Module):
    """The weights of one layer's attention to a signal of J coefficients, and of the mask on what enters it.

    The scores of a query over the keys B W_k of the basis functions become the mean, sigmoid(w_mu . scores), and the
    variance, softplus(w_sigma . scores), of a Gaussian. The expectation of the values B W_v under it is the context, to
    which an output projection is applied. The weights w are shared by the heads. The mask, an option of the authors'
    code, multiplies a block of steps by the sigmoid of a convolution of the block with 3 taps. Letters are the paper's
    (section 3).
    """

    def __init__(self, d_model: int, num_heads: int, num_basis: int, *, mask: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_width = d_model // num_heads
        self.key = nn.Linear(d_model, d_model, bias=False)
        self.value = nn.Linear(d_model, d_model, bias=False)
        self.output = nn.Linear(d_model, d_model, bias=False)
        self.density = nn.Linear(num_basis, 2, bias=False)
        for layer in (self.key, self.value, self.output, self.density):
            fan_in_normal_(layer)
        self.mask = nn.Conv1d(d_model, d_model, kernel_size=3, padding=1) if mask else None

    def apply_mask(self, blocks: Tensor, kept: Tensor) -> Tensor:
        """blocks (B, R, G, D), with zeros where not kept (B, R, G), multiplied by the mask if there is one."""
        blocks = blocks * kept[..., None]
        if self.mask is None or not blocks.numel():
            return blocks
        with torch.autocast(blocks.device.type, enabled=False):
            gate: Tensor = self.mask(blocks.flatten(0, 1).transpose(1, 2)).sigmoid()  # (B R, D, G)
        return blocks * gate.transpose(1, 2).view_as(blocks)

    def keys(self, coefficients: Tensor) -> LongTermKeys:
        """The keys and values for coefficients (B, J, D)."""
        logits = self.key(self.density.weight @ coefficients)  # (B, 2, D), the weighted sums of B W_k
        return LongTermKeys(self.heads(logits).transpose(-1, -2), self.heads(self.value(coefficients)))

    def heads(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, H, N, W)."""
        return x.view(*x.shape[:2], self.num_heads, self.head_width).transpose(1, 2)

    def densities(self, query: Tensor, keys: LongTermKeys, dtype: torch.dtype) -> Density:
        """Where the scaled queries (B, H, T, W) attend, computed in `dtype` also under autocast."""
        with torch.autocast(query.device.type, enabled=False):
            mean, variance = (query.to(dtype) @ keys.logits.to(dtype)).unbind(dim=-1)
            return Density(mean.sigmoid(), functional.softplus(variance).clamp(min=MIN_VARIANCE))

    def read(self, density: Density, keys: LongTermKeys, basis: GaussianBasis) -> Tensor:
        """The contexts (B, T, D) of the densities of T queries."""
        context = basis.expectation(density.mean, density.variance) @ keys.values  # (B, H, T, W)
        return context.transpose(1, 2).flatten(2)


class LongTermRecall:
    """One layer's long-term memory in the course of a call: the output hook of the layer's attention."""

    def __init__(
        self,
        attention: LongTermAttention,
        operators: SignalOperators,
        turns: Turns,
        blocks: Tensor,
        coefficients: Tensor,
        sticky: StickySampler | None,
        uniforms: Tensor,
    ) -> None:
        """blocks: (B, R, G, D), what enters the signal of coefficients (B, J, D) at the turns. uniforms: (B, R, P)."""
        self.attention = attention
        self.operators = operators
        self.turns = turns
        self.blocks = blocks
        self.coefficients = coefficients
        self.sticky = sticky
        self.uniforms = uniforms
        self.points: list[Tensor] = []
        """For each turn the points (B, P) at which the old signal was sampled; empty unless memories are sticky."""

    def __call__(self, query: Tensor, attended: Tensor) -> Tensor:
        """attended (B, T, D), the attention's output, plus what the scaled queries (B, H, T, W) find here."""
        dtype = self.coefficients.dtype
        contexts, densities = [], []
        for turn, (start, stop) in enumerate(itertools.pairwise([0, *self.turns.times, query.shape[2]])):
            if turn:
                self.refit(turn - 1)
            if start == stop:  # a turn before the call's first step
                continue
            keys = self.attention.keys(self.coefficients)
            density = self.attention.densities(query[:, :, start:stop], keys, dtype)
            contexts.append(self.attention.read(density, keys, self.operators.basis))
            densities.append(density)
            if self.sticky is not None:
                self.sticky.observe(*density)
        self.density = Density(*(torch.cat(parts, dim=2) for parts in zip(*densities, strict=True)))
        found = self.attention.output(torch.cat(contexts, dim=1)).masked_fill(~self.turns.holds[..., None], 0.0)
        self.found, self.attended = (x.detach().float().norm(dim=-1) for x in (found, attended))  # (B, T)
        output: Tensor = attended + found
        return output

    def refit(self, turn: int) -> None:
        """Let the block of a turn enter the signal; no gradient flows to the old signal."""
        old = self.coefficients.detach()
        points = None if self.sticky is None else self.sticky.draw(self.uniforms[:, turn])
        if points is not None:
            self.points.append(points)
        self.coefficients = self.operators.refit(old, self.blocks[:, turn], self.turns.continued[:, turn], points)
