"""Action distributions against torch's own."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch.distributions import Categorical, Independent, Normal

from agents.distributions import action_distribution


def test_discrete_agrees_with_torch() -> None:
    distribution = action_distribution(gym.spaces.Discrete(5))
    parameters = torch.randn(3, 7, 5, generator=torch.Generator().manual_seed(0))
    oracle = Categorical(logits=parameters)
    action = distribution.sample(parameters, torch.Generator().manual_seed(1))
    assert action.shape == (3, 7)
    torch.testing.assert_close(distribution.log_prob(parameters, action), oracle.log_prob(action))
    torch.testing.assert_close(distribution.entropy(parameters), oracle.entropy())
    assert torch.equal(distribution.mode(parameters), parameters.argmax(-1))
    assert torch.equal(distribution.features(action).argmax(-1), action)


def test_samples_have_the_probabilities_of_the_softmax() -> None:
    distribution = action_distribution(gym.spaces.Discrete(4))
    logits = torch.tensor([0.0, 1.0, -1.0, 0.5])
    draws = distribution.sample(logits.expand(40_000, 4), torch.Generator().manual_seed(0))
    frequencies = torch.bincount(draws, minlength=4) / 40_000
    torch.testing.assert_close(frequencies, logits.softmax(0), rtol=0, atol=0.01)


def test_multidiscrete_is_a_product() -> None:
    distribution = action_distribution(gym.spaces.MultiDiscrete([3, 2, 4]))
    parameters = torch.randn(6, 9, generator=torch.Generator().manual_seed(0))
    oracles = [Categorical(logits=part) for part in parameters.split([3, 2, 4], dim=-1)]
    action = distribution.sample(parameters, torch.Generator().manual_seed(1))
    assert action.shape == (6, 3)
    expected = sum(oracle.log_prob(action[:, i]) for i, oracle in enumerate(oracles))
    torch.testing.assert_close(distribution.log_prob(parameters, action), expected)
    torch.testing.assert_close(distribution.entropy(parameters), sum(oracle.entropy() for oracle in oracles))
    assert distribution.features(action).sum(dim=-1).eq(3).all()


def test_a_probability_that_underflows_gives_finite_entropy_and_gradient() -> None:
    distribution = action_distribution(gym.spaces.Discrete(2))
    parameters = torch.tensor([[0.0, -1e6]], requires_grad=True)
    entropy = distribution.entropy(parameters)
    entropy.sum().backward()
    assert entropy.item() == 0
    assert torch.isfinite(parameters.grad).all()


@pytest.mark.parametrize(("low", "high"), [(-2.0, 4.0), (-np.inf, np.inf)])
def test_box_agrees_with_torch_in_units_of_the_space(low: float, high: float) -> None:
    distribution = action_distribution(gym.spaces.Box(low, high, (2, 3)))
    parameters = torch.randn(5, 12, generator=torch.Generator().manual_seed(0))
    centre, scale = (1.0, 3.0) if np.isfinite(low) else (0.0, 1.0)
    mean, log_std = parameters.chunk(2, dim=-1)
    oracle = Independent(Normal(centre + scale * mean, scale * log_std.clamp(-5, 2).exp()), 1)
    action = distribution.sample(parameters, torch.Generator().manual_seed(1))
    assert action.shape == (5, 2, 3)
    torch.testing.assert_close(distribution.log_prob(parameters, action), oracle.log_prob(action.flatten(1)))
    torch.testing.assert_close(distribution.entropy(parameters), oracle.entropy())
    torch.testing.assert_close(distribution.mode(parameters).flatten(1), oracle.mean)
    draws = distribution.sample(parameters[:1].expand(20_000, 12), torch.Generator().manual_seed(2)).flatten(1)
    torch.testing.assert_close(draws.mean(0), oracle.mean[0], rtol=0.05, atol=0.1)
    torch.testing.assert_close(draws.std(0), oracle.stddev[0], rtol=0.05, atol=0.01)


@pytest.mark.parametrize("log_std", [-7.0, -5.0, 2.0, 3.0])
def test_the_bound_of_the_standard_deviation_lets_it_come_back_and_go_no_further(log_std: float) -> None:
    distribution = action_distribution(gym.spaces.Box(-1, 1, (1,)))
    parameters = torch.tensor([[0.0, log_std]], requires_grad=True)
    for loss, is_inward in (
        (distribution.entropy(parameters), log_std >= 2),
        (-distribution.entropy(parameters), log_std <= -5),
    ):
        (gradient,) = torch.autograd.grad(loss.sum(), parameters)
        assert bool(gradient[0, 1]) == is_inward


def test_a_standard_deviation_beyond_its_bound_is_learned_back() -> None:
    """A narrow reward draws the mean and the deviation in, whatever one step has done to them."""
    distribution = action_distribution(gym.spaces.Box(-1, 1, (1,)))
    parameters = torch.tensor([0.9, 2.5], requires_grad=True)
    optimizer = torch.optim.Adam([parameters], lr=0.05)
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        with torch.no_grad():
            action, _ = distribution.sample_with_log_prob(parameters.expand(512, 2), generator)
        reward = torch.exp(-((action[:, 0] - 0.9) ** 2) / 0.3**2)
        loss = -(distribution.log_prob(parameters.expand(512, 2), action) * (reward - reward.mean())).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert distribution.entropy(parameters) < 0.5  # 3.42 at the bound


@pytest.mark.parametrize(
    ("low", "high", "centre", "scale"),
    [
        (-np.finfo(np.float32).max, np.finfo(np.float32).max, 0.0, 1.0),
        (10.0, np.inf, 11.0, 1.0),
        (-np.inf, -10.0, -11.0, 1.0),
        (-10.0, np.inf, 0.0, 1.0),
        (0.0, np.finfo(np.float32).max, 1.0, 1.0),
        (0.0, 1e10, 5e9, 5e9),
        (2.0, 2.0, 2.0, 1e-8),
    ],
)
@pytest.mark.parametrize("shape", [(), (2, 1)])
def test_actions_of_any_bounds_and_shape_are_drawn_where_they_are_possible(
    low: float, high: float, centre: float, scale: float, shape: tuple[int, ...]
) -> None:
    distribution = action_distribution(gym.spaces.Box(low, high, shape))
    parameters = torch.zeros(1000, distribution.num_parameters, requires_grad=True)
    assert distribution.mode(parameters).shape == (1000, *shape)
    torch.testing.assert_close(distribution.mode(parameters), torch.full((1000, *shape), centre))
    action, log_prob = distribution.sample_with_log_prob(parameters, torch.Generator().manual_seed(0))
    assert action.shape == (1000, *shape)
    if scale >= 1:
        torch.testing.assert_close(action.std(), torch.tensor(scale), rtol=0.1, atol=0)
    (log_prob.sum() + distribution.entropy(parameters).sum() + distribution.features(action).sum()).backward()
    assert torch.isfinite(log_prob).all()
    assert torch.isfinite(parameters.grad).all()


def test_multidiscrete_of_two_axes_and_multibinary_are_products() -> None:
    generator = torch.Generator().manual_seed(0)
    for space, flat in (
        (gym.spaces.MultiDiscrete([[3, 2], [4, 2]]), gym.spaces.MultiDiscrete([3, 2, 4, 2])),
        (gym.spaces.MultiBinary((2, 3)), gym.spaces.MultiDiscrete([2] * 6)),
    ):
        distribution, plain = action_distribution(space), action_distribution(flat)
        assert distribution.num_parameters == plain.num_parameters
        parameters = torch.randn(5, 7, plain.num_parameters, generator=generator)
        action, log_prob = distribution.sample_with_log_prob(parameters, torch.Generator().manual_seed(1))
        expected, expected_log_prob = plain.sample_with_log_prob(parameters, torch.Generator().manual_seed(1))
        assert action.shape == (5, 7, *space.shape)
        assert torch.equal(action.flatten(2), expected)
        assert torch.equal(distribution.mode(parameters).flatten(2), plain.mode(parameters))
        assert torch.equal(log_prob, expected_log_prob)
        assert torch.equal(distribution.features(action), plain.features(expected))


def test_an_action_space_without_a_distribution_is_named() -> None:
    with pytest.raises(ValueError, match=r"action space .*Text.*expected Discrete"):
        action_distribution(gym.spaces.Text(5))


def test_a_dict_and_tuple_of_actions_is_the_product_of_its_parts() -> None:
    discrete, box, table = gym.spaces.Discrete(3, start=2), gym.spaces.Box(-1, 3, (2,)), gym.spaces.MultiBinary((1, 2))
    nest = gym.spaces.Dict(a=discrete, b=gym.spaces.Tuple((box, table)))
    distribution = action_distribution(nest)
    parts = [action_distribution(space) for space in (discrete, box, table)]
    assert distribution.num_parameters == 3 + 4 + 4
    parameters = torch.randn(5, 7, 11, generator=torch.Generator().manual_seed(0))
    own = parameters.split([3, 4, 4], dim=-1)
    action, log_prob = distribution.sample_with_log_prob(parameters, torch.Generator().manual_seed(1))
    assert (action.shape, action.dtype) == ((5, 7, 5), torch.float64)
    taken = action[..., 0].long(), action[..., 1:3].float(), action[..., 3:].long().view(5, 7, 1, 2)
    torch.testing.assert_close(
        log_prob, sum(part.log_prob(*pair) for part, *pair in zip(parts, own, taken, strict=True))
    )
    torch.testing.assert_close(distribution.log_prob(parameters, action), log_prob)
    expected = sum(part.entropy(parameter) for part, parameter in zip(parts, own, strict=True))
    torch.testing.assert_close(distribution.entropy(parameters), expected)
    features = torch.cat([part.features(value) for part, value in zip(parts, taken, strict=True)], dim=-1)
    torch.testing.assert_close(distribution.features(action), features)
    lever, arm, keys = (part.mode(parameter) for part, parameter in zip(parts, own, strict=True))
    modes = torch.cat([lever[..., None], arm, keys.flatten(2)], dim=-1)
    torch.testing.assert_close(distribution.mode(parameters), modes.double())
