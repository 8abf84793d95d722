"""A learner on a CUDA device learns what one on the CPU does."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable

import pytest
import torch

import memory_cores
from agents.actor import Actor, copy_weights
from agents.config import ExperimentConfig
from agents.learner import Learner
from agents.policy import make_policy
from agents.trainer import ImpalaTrainer
from agents.unroll import batch

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

MakeConfig = Callable[..., ExperimentConfig]
RANDOM_EPISODES = "tests.agents.scripted_envs:RandomEpisodes-v0"


def on(config: ExperimentConfig, device: str) -> ExperimentConfig:
    return dataclasses.replace(config, train=dataclasses.replace(config.train, device=device))


@pytest.mark.parametrize("core", memory_cores.names())
def test_an_update_agrees(make_config: MakeConfig, core: str) -> None:
    config = make_config(RANDOM_EPISODES, core, normalize_observations=True, learning_rate=1e-2, optimizer="rmsprop")
    actor = Actor(config, index=0)
    torch.manual_seed(1)
    policy = make_policy(config, actor.envs.observation_space, actor.envs.action_space)
    data = batch([actor.unroll(copy_weights(policy), 0)])
    actor.close()
    here, there = (Learner(copy.deepcopy(policy), on(config, device)) for device in ("cpu", "cuda"))
    for step in range(2):
        expected, metrics = here.update(data, step), there.update(data, step)
        assert metrics["loss/total"] == pytest.approx(expected["loss/total"], rel=1e-3, abs=1e-4)
        assert metrics["learner/gradient_norm"] == pytest.approx(expected["learner/gradient_norm"], rel=1e-3)
    found = there.policy.state_dict()
    assert all(tensor.device.type == "cuda" for tensor in found.values())
    torch.testing.assert_close(found["encoder.join.weight"].cpu(), here.policy.encoder.join.weight, rtol=0, atol=1e-2)


def test_a_run_trains_and_goes_on_elsewhere(make_config: MakeConfig) -> None:
    config = make_config(RANDOM_EPISODES, "transformer_xl")
    trainer = ImpalaTrainer(on(config, "cuda"))
    for _ in range(3):
        trainer.update()
    weights = {name: tensor.cpu().clone() for name, tensor in trainer.weights().items()}
    state = trainer.state()
    trainer.close()
    for device in ("cpu", "cuda"):
        other = ImpalaTrainer(on(config, device))
        assert other.load(weights, state) == []
        assert other.update()["learner/skipped_updates"] == 0
        other.close()
