"""Sequences as continuous signals: sums of Gaussians, fitted by ridge regression (Martins et al., 2109.00301)."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

MAX_CONDITION = 1e10
"""Largest condition number of the regression's normal equations, which are solved in float64."""
MAX_BASIS = 2048
"""Most basis functions."""
MAX_OPERATOR = 2**25
"""Most entries of an operator of the regression."""


class GaussianBasis(NamedTuple):
    """psi_j(t) = N(t; c_j, w_j^2), j = 1 ... J: first all centres with the narrow width, then all with the wide one."""

    centres: Tensor
    """(J / 2,)"""
    widths: Tensor
    """(2,)"""

    def values(self, t: Tensor) -> Tensor:
        """psi (..., J) at the times t (...)."""
        return self.expectation(t, torch.zeros_like(t))

    def expectation(self, mean: Tensor, variance: Tensor) -> Tensor:
        """E[psi(t)] (..., J) for t ~ N(mean, variance), both (...): N(mean; c_j, variance + w_j^2)."""
        variance = variance[..., None, None] + self.widths.square()[:, None]  # (..., 2, 1)
        distance = (mean[..., None] - self.centres).square()[..., None, :]  # (..., 1, J / 2)
        logarithm = torch.addcmul(-0.5 * (2 * math.pi * variance).log(), distance, -0.5 / variance)
        return logarithm.exp().flatten(-2)


class SignalOperators(NamedTuple):
    """The constant matrices by which signals are made and extended."""

    basis: GaussianBasis
    first: Tensor
    """(J, G), applied to a first block, gives the coefficients of its signal."""
    new: Tensor
    """(J, G), applied to a block behind an old signal."""
    samples: Tensor
    """(J, P), applied to samples of the old signal."""
    old: Tensor
    """(J, J), applied to the old signal's coefficients where it is sampled evenly."""

    def refit(self, old: Tensor, block: Tensor, continued: Tensor, points: Tensor | None = None) -> Tensor:
        """The coefficients (B, J, D) of the signals old (B, J, D) when they are continued by block (B, G, D).

        Where continued (B,) is False, nothing is kept of the old signal and the block is a first one. The old signal is
        sampled at `points` (B, P), in order, or evenly if None. Nothing is computed in half precision, even under
        autocast.
        """
        with torch.autocast(old.device.type, enabled=False):
            block = block.to(old.dtype)
            carry = self.old
            if points is not None:
                carry = self.samples @ self.basis.values(points.to(old.dtype))  # (B, J, J)
            return torch.where(continued[:, None, None], carry @ old + self.new @ block, self.first @ block)


class ContinuousSignal(nn.Module):
    """x(t) = B^T psi(t) on [0, 1]: how D signals, held as coefficients B (J, D), are fitted and extended.

    B minimises sum_i |x_i - B^T psi(t_i)|^2 + ridge |B|^2 over the points t_i of the steps x_i and over as many
    points outside [0, 1], on [-1/2, 3/2], at which the signal is 0. The points never change, so B is a constant
    matrix times the steps; these matrices are computed in float64 and stay in it whatever the module is cast to.
    Letters are the paper's, but for J, its N.

    The steps j = 1 ... G of a first block lie at (j - 1/2) / G. Those of a later block lie at tau + (1 - tau) j / G,
    behind the old signal, which is squeezed into (0, tau]: its P samples lie at tau i / P.
    """

    def __init__(
        self,
        *,
        num_basis: int,
        block_length: int,
        tau: float,
        ridge: float,
        narrow_width: float,
        wide_width: float,
        num_samples: int,
    ) -> None:
        super().__init__()
        self.num_samples = num_samples
        operators, self.condition = fit_operators(
            num_basis, block_length, tau, ridge, narrow_width, wide_width, num_samples
        )
        """The larger condition number of the two regressions."""
        for name, constant in {**operators.basis._asdict(), **operators._asdict()}.items():
            if isinstance(constant, Tensor):
                self.register_buffer(name, constant.to(torch.get_default_device()), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ContinuousSignal:
        exact = dict(self.named_buffers())
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, constant in exact.items():
            self.register_buffer(name, constant.to(getattr(self, name).device), persistent=False)
        return self

    def operators(self, dtype: torch.dtype) -> SignalOperators:
        """The constants in `dtype`."""
        constants = {name: constant.to(dtype) for name, constant in self.named_buffers()}
        basis = GaussianBasis(constants.pop("centres"), constants.pop("widths"))
        return SignalOperators(basis, **constants)


@functools.lru_cache(maxsize=8)
def fit_operators(
    num_basis: int,
    block_length: int,
    tau: float,
    ridge: float,
    narrow_width: float,
    wide_width: float,
    num_samples: int,
) -> tuple[SignalOperators, float]:
    """The operators of a `ContinuousSignal` in float64, and the larger condition number of the two regressions."""
    centres = torch.linspace(0, 1, num_basis // 2, dtype=torch.float64, device="cpu")
    basis = GaussianBasis(centres, torch.tensor([narrow_width, wide_width], dtype=torch.float64, device="cpu"))
    first, condition = ridge_operator(basis, middles(block_length), ridge)
    squeezed, new = tau * ends(num_samples), tau + (1 - tau) * ends(block_length)
    later, later_condition = ridge_operator(basis, torch.cat([squeezed, new]), ridge)
    old = later[:, :num_samples] @ basis.values(ends(num_samples))
    operators = SignalOperators(basis, first, later[:, num_samples:], later[:, :num_samples], old)
    return operators, max(condition, later_condition)


def ridge_operator(basis: GaussianBasis, points: Tensor, ridge: float) -> tuple[Tensor, float]:
    """The matrix (J, N) that maps N steps at `points` (N,) to coefficients, and the regression's condition number."""
    outside = (torch.arange(len(points) // 2, dtype=torch.float64, device="cpu") + 0.5) / len(points)
    inside = basis.values(points).T  # (J, N)
    values = torch.cat([basis.values(-outside).T, inside, basis.values(1 + outside).T], dim=1)
    normal = values @ values.T + ridge * torch.eye(len(values), dtype=torch.float64, device="cpu")
    spectrum = torch.linalg.eigvalsh(normal)
    condition = float(spectrum[-1] / spectrum[0].clamp(min=ridge))
    return torch.linalg.solve(normal, inside), condition


def middles(count: int) -> Tensor:
    """(count,) float64: 1/2, 3/2, ... of `count` equal parts of [0, 1]."""
    return (torch.arange(count, dtype=torch.float64, device="cpu") + 0.5) / count


def ends(count: int) -> Tensor:
    """(count,) float64: 1, 2, ... of `count` equal parts of [0, 1]."""
    return torch.arange(1, count + 1, dtype=torch.float64, device="cpu") / count
