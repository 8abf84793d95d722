"""Mixtures of logistics: probabilities that sum to 1 and are the paper's, and samples that follow them."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from audio.logistic_mixture import LogisticMixture, from_parameters


def random_mixture(
    levels: int, spread: float = 1.0, seed: int = 0, rows: int = 1, components: int = 3
) -> LogisticMixture:
    generator = torch.Generator().manual_seed(seed)
    parameters = torch.randn(rows, 3 * components, generator=generator) * spread
    parameters[:, -components:] -= 2
    return from_parameters(parameters, levels)


def probabilities(mixture: LogisticMixture) -> Tensor:
    """(rows, levels)"""
    levels = torch.arange(mixture.levels)
    repeated = LogisticMixture(*(part[:, None] for part in mixture[:3]), mixture.levels)
    return repeated.log_prob(levels.expand(len(mixture.logits), -1)).exp()


def plain_probability(mixture: LogisticMixture, row: int, level: int) -> float:
    """Equation 2 of the paper, term by term in float64."""

    def sigma(z: float) -> float:
        return 1 / (1 + math.exp(-z)) if z > -700 else 0.0

    weights = mixture.logits[row].double().softmax(0).tolist()
    x, half = 2 * level / (mixture.levels - 1) - 1, 1 / (mixture.levels - 1)
    total = 0.0
    for weight, mean, log_scale in zip(
        weights, mixture.means[row].tolist(), mixture.log_scales[row].tolist(), strict=True
    ):
        scale = math.exp(log_scale)
        upper = 1.0 if level == mixture.levels - 1 else sigma((x + half - mean) / scale)
        lower = 0.0 if level == 0 else sigma((x - half - mean) / scale)
        total += weight * (upper - lower)
    return total


@given(levels=st.sampled_from([2, 3, 16, 256]), spread=st.floats(0.1, 3), seed=st.integers(0, 1000))
def test_the_probabilities_of_all_levels_sum_to_one(levels: int, spread: float, seed: int) -> None:
    sums = probabilities(random_mixture(levels, spread, seed, rows=4)).double().sum(-1)
    torch.testing.assert_close(sums, torch.ones_like(sums), atol=2e-5, rtol=0)


def test_sixteen_bits_sum_to_one_too() -> None:
    mixture = random_mixture(65_536, seed=5)
    assert float(probabilities(mixture).double().sum()) == pytest.approx(1, abs=1e-4)


@given(levels=st.sampled_from([2, 16, 256]), seed=st.integers(0, 1000), data=st.data())
def test_a_probability_is_the_papers(levels: int, seed: int, data: st.DataObject) -> None:
    mixture = random_mixture(levels, seed=seed)
    level = data.draw(st.integers(0, levels - 1))
    expected = plain_probability(mixture, 0, level)
    assert float(probabilities(mixture)[0, level]) == pytest.approx(expected, rel=1e-3, abs=1e-7)


def test_far_tails_and_narrow_scales_keep_finite_losses_and_gradients() -> None:
    for mean, log_scale in [(0.0, -12.0), (0.0, -40.0), (50.0, -5.0), (-1.0, 10.0), (0.3, -8.0)]:
        parameters = torch.tensor([0.0, 0.0, mean, -mean, log_scale, log_scale], requires_grad=True)
        mixture = from_parameters(parameters.expand(5, 6), 65_536)
        loss = -mixture.log_prob(torch.tensor([0, 1, 32_768, 65_534, 65_535])).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        assert torch.isfinite(loss)
        assert parameters.grad is not None
        assert torch.isfinite(parameters.grad).all()


def test_samples_follow_the_probabilities() -> None:
    mixture = random_mixture(8, seed=3)
    many = LogisticMixture(*(part.expand(40_000, -1) for part in mixture[:3]), 8)
    draws = many.sample(generator=torch.Generator().manual_seed(0))
    frequencies = draws.bincount(minlength=8) / len(draws)
    torch.testing.assert_close(frequencies, probabilities(mixture)[0], atol=0.01, rtol=0)


def test_temperature_zero_is_the_mean_of_the_weightiest() -> None:
    mixture = from_parameters(torch.tensor([[0.0, 3.0, -1.0, 0.5, -1.0, -1.0]]), 5)
    assert mixture.sample(temperature=0).tolist() == [3]
