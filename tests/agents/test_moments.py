"""Normalised observations: moments of everything seen, the same in actors and learners."""

from __future__ import annotations

from collections.abc import Callable

import torch
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from agents.actor import copy_weights
from agents.config import ExperimentConfig
from agents.encoders import ObservationEncoder
from agents.moments import LIMIT, RunningMoments
from agents.trainer import ImpalaTrainer
from tests.agents.test_acting_is_learning import check_unroll

RANDOM_EPISODES = "tests.agents.scripted_envs:RandomEpisodes-v0"


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.floats(-100, 100), st.floats(0.01, 100))
def test_moments_are_those_of_all_batches_together(sizes: list[int], mean: float, scale: float) -> None:
    generator = torch.Generator().manual_seed(sum(sizes))
    batches = [mean + scale * torch.randn(size, 3, generator=generator, dtype=torch.float64) for size in sizes]
    moments = RunningMoments((3,))
    for batch in batches:
        moments.update(batch)
    everything = torch.cat(batches)
    torch.testing.assert_close(moments.mean, everything.mean(0))
    torch.testing.assert_close(moments.squares / moments.count, everything.var(0, correction=0), rtol=1e-6, atol=1e-6)
    normalised = moments(everything)
    assert normalised.abs().max() <= LIMIT
    if len(everything) > 20:
        torch.testing.assert_close(normalised.mean(0), torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-6)


def test_a_constant_input_vanishes_and_before_any_input_nothing_changes() -> None:
    moments = RunningMoments((2,))
    x = torch.tensor([[3.0, -1.5], [3.0, 2.5]])
    assert torch.equal(moments(x), x)
    moments.update(x)
    assert torch.equal(moments(x), torch.tensor([[0.0, -1.0], [0.0, 1.0]]))


def test_small_inputs_and_small_differences_of_large_ones_are_brought_to_variance_1() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1000, 3, generator=generator, dtype=torch.float64)
    x = torch.tensor([0.0, 1.0, 1e6]) + torch.tensor([1e-4, 1e-4, 1e-4]) * noise
    moments = RunningMoments((3,))
    moments.update(x)
    torch.testing.assert_close(moments(x).std(0), torch.ones(3, dtype=torch.float64), rtol=0.01, atol=0)


def test_the_rounding_of_a_constant_is_not_brought_to_variance_1() -> None:
    x = (0.1 + torch.tensor([[0.0], [7e-9]])).repeat(50, 1)
    moments = RunningMoments((1,))
    moments.update(x)
    assert x.unique().numel() == 2
    assert moments(x).abs().max() < 0.5


def test_images_are_normalised_by_pixel_and_choices_are_not() -> None:
    space = spaces.Dict({"image": spaces.Box(0, 1, (7, 7, 3)), "choice": spaces.Discrete(4)})
    encoder = ObservationEncoder(space, 8, normalize=True)
    buffers = {name: tuple(buffer.shape) for name, buffer in encoder.named_buffers() if name.endswith("mean")}
    assert list(buffers.values()) == [(7, 7, 3)]


def test_actors_normalise_as_the_learner_does(make_config: Callable[..., ExperimentConfig]) -> None:
    trainer = ImpalaTrainer(make_config(RANDOM_EPISODES, normalize_observations=True, learning_rate=0.01))
    try:
        for version in range(1, 5):
            trainer.update()
            policy = trainer.learner.policy
            trainer.actors.publish(copy_weights(policy), version)
            unroll = trainer.actors.next_unroll()
            assert unroll.version == version
            check_unroll(trainer, unroll)
        (count,) = [tensor for name, tensor in trainer.weights().items() if name.endswith("count")]
        assert count.item() == 4 * 4 * 8  # updates, rows, steps
    finally:
        trainer.close()
