"""The value of an endless constant reward: over all lengths with one core, over all cores with one length."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import memory_cores
from agents.config import ExperimentConfig
from agents.trainer import ImpalaTrainer
from agents.unroll import batch
from training.config import StepScheduleConfig

MakeConfig = Callable[..., ExperimentConfig]
CONSTANT_REWARD = "tests.agents.scripted_envs:ConstantReward-v0"
LENGTHS = [("feedforward", unroll, limit) for unroll in (1, 5, 20) for limit in (None, 6)]
CORES = [(core, 5, 6) for core in memory_cores.names() if core != "feedforward"]
"""Where both unrolls and episodes end within what a core remembers."""


@pytest.mark.parametrize(("core", "unroll_length", "mean_time_limit"), LENGTHS + CORES)
def test_an_endless_reward_has_the_value_of_its_sum(
    make_config: MakeConfig, core: str, unroll_length: int, mean_time_limit: int | None
) -> None:
    """V = 1 / (1 - gamma): neither the end of an unroll nor a time limit may count as the end of the episode."""
    recurrent = core == "lstm"  # whose large first errors would push its gates far off
    updates = {1: 200, 5: 120, 20: 80}[unroll_length]
    config = make_config(
        CONSTANT_REWARD,
        core,
        {"mean_time_limit": mean_time_limit},
        unroll_length=unroll_length,
        discount=0.5,
        learning_rate=StepScheduleConfig(0.02 if recurrent else 0.015, 0.0),
        max_grad_norm=0.05 if recurrent else 1e3,
        total_steps=updates * 4 * unroll_length,
    )
    trainer = ImpalaTrainer(config)
    for _ in range(updates):
        trainer.update()
    unroll = trainer.actors.next_unroll()
    data = batch([unroll])
    output = trainer.learner.policy(data.observation, data.last_action, data.last_reward, data.reset, data.core_state)
    trainer.close()
    torch.testing.assert_close(output.values.detach(), torch.full_like(output.values, 2.0), rtol=0.02, atol=0)
