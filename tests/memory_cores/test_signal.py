"""The continuous signal of the infinity-former against its definition: expectation, fit and contraction."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from memory_cores.infinity.signal import ContinuousSignal, GaussianBasis


def signal(length: int = 256, num_basis: int = 128, ridge: float = 1.0, tau: float = 0.5) -> ContinuousSignal:
    return ContinuousSignal(
        num_basis=num_basis,
        block_length=length,
        tau=tau,
        ridge=ridge,
        narrow_width=0.01,
        wide_width=0.05,
        num_samples=512,
    )


@given(
    mean=st.floats(0, 1),
    deviation=st.floats(1e-3, 1.5),
    narrow=st.floats(0.005, 0.1),
    wide=st.floats(0.11, 0.5),
    pairs=st.integers(1, 5),
)
def test_the_expectation_is_the_integral(mean: float, deviation: float, narrow: float, wide: float, pairs: int) -> None:
    basis = GaussianBasis(torch.linspace(0, 1, pairs).double(), torch.tensor([narrow, wide], dtype=torch.float64))
    values = basis.expectation(*torch.tensor([mean, deviation**2], dtype=torch.float64))
    # Each product of density and basis function on the range of the narrower of the two.
    widths = basis.widths.repeat_interleave(pairs)
    unit = torch.linspace(-9, 9, 1201, dtype=torch.float64)
    of_basis, of_density = basis.centres.repeat(2)[:, None] + widths[:, None] * unit, mean + deviation * unit
    t = torch.where(widths[:, None] < deviation, of_basis, of_density)
    psi = basis.values(t).diagonal(dim1=0, dim2=2).T
    density = torch.exp(-0.5 * ((t - mean) / deviation) ** 2) / (deviation * math.sqrt(2 * math.pi))
    torch.testing.assert_close(values, torch.trapezoid(psi * density, t, dim=1), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("length", "num_basis", "ridge"), [(7, 6, 0.5), (16, 128, 1.0), (5, 64, 0.1), (1, 2, 3.0)])
def test_fits_are_least_squares_with_a_penalty(length: int, num_basis: int, ridge: float) -> None:
    fitted = signal(length, num_basis, ridge)
    operators = fitted.operators(torch.float64)
    x, old = torch.randn(2, length, 3).double(), torch.randn(2, num_basis, 3).double()
    for continued in (False, True):
        t = (torch.arange(length) + 0.5).double() / length
        wanted = x
        if continued:
            places = torch.arange(1, 513).double() / 512
            t = torch.cat([0.5 * places, 0.5 + 0.5 * torch.arange(1, length + 1).double() / length])
            wanted = torch.cat([operators.basis.values(places) @ old, x], dim=1)
        outside = (torch.arange(len(t) // 2) + 0.5).double() / len(t)
        design = operators.basis.values(torch.cat([t, -outside, 1 + outside]))
        design = torch.cat([design, math.sqrt(ridge) * torch.eye(num_basis).double()])
        zeros = torch.zeros(2, len(design) - len(t), 3).double()
        expected = torch.linalg.lstsq(design.expand(2, -1, -1), torch.cat([wanted, zeros], dim=1), driver="gelsd")
        actual = operators.refit(old, x, torch.tensor([continued] * 2))
        torch.testing.assert_close(actual, expected.solution, rtol=1e-7, atol=1e-7)


@torch.no_grad()
def test_a_slow_signal_survives_contraction_and_noise_does_not() -> None:
    operators = signal().operators(torch.float64)
    t = (torch.arange(256).double() + 0.5) / 256
    sine, noise = (2 * math.pi * 4 * t).sin(), torch.randn(256, generator=torch.Generator().manual_seed(0)).double()
    block = torch.stack([sine, noise], dim=1)[None]
    coefficients = operators.refit(torch.zeros(1, 128, 2).double(), block, torch.tensor([False]))
    errors = []
    for refits in range(5):
        points = 0.5**refits * (torch.arange(256).double() + 0.5) / 256
        left = operators.basis.values(points) @ coefficients
        errors.append(((left - block).norm(dim=1) / block.norm(dim=1))[0].tolist())
        coefficients = operators.refit(coefficients, torch.zeros_like(block), torch.tensor([True]))
    sine_errors, noise_errors = zip(*errors, strict=True)
    assert max(sine_errors[:3]) < 0.05
    assert sine_errors[4] > 0.3
    assert noise_errors[0] > 0.3
    assert noise_errors[2] > 0.8
