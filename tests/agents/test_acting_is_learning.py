"""The policy that acts is the policy that learns: V-trace must correct for staleness, never for a bug."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import memory_cores
from agents.cluster import start_ray
from agents.config import ExperimentConfig
from agents.trainer import ImpalaTrainer
from agents.unroll import Unroll, batch

MakeConfig = Callable[..., ExperimentConfig]


def check_unroll(trainer: ImpalaTrainer, unroll: Unroll) -> None:
    """The learner's log-probabilities of what the actor did are those the actor sent."""
    data = batch([unroll])
    policy = trainer.learner.policy
    with torch.no_grad():
        output = policy(data.observation, data.last_action, data.last_reward, data.reset, data.core_state)
        log_probs = policy.distribution.log_prob(output.action_parameters[:, :-1], data.action)
    torch.testing.assert_close(log_probs, data.behaviour_log_probs, rtol=0, atol=1e-4)


def check(config: ExperimentConfig, unrolls: int, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = ImpalaTrainer(config)
    # Nothing is learned, what a core learns without gradients included.
    monkeypatch.setattr(trainer.learner.policy.core, "after_update", lambda sum_over_learners: None)
    with torch.no_grad():
        trainer.learner.policy.actor_head.weight.normal_(generator=torch.Generator().manual_seed(0))
    resets, cuts = 0, 0
    try:
        for _ in range(unrolls):
            trainer.update()
            unroll = trainer.actors.next_unroll()
            check_unroll(trainer, unroll)
            resets += int(unroll.reset.sum())
            cuts += int((~unroll.valid).sum())
    finally:
        trainer.close()
    # Otherwise the check would say nothing of memory carried over unrolls, nor of the ends of episodes.
    assert resets > 5
    assert cuts > 0


@pytest.mark.parametrize("core", memory_cores.names())
def test_in_one_process(make_config: MakeConfig, core: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check(
        make_config("tests.agents.scripted_envs:RandomEpisodes-v0", core, learning_rate=0.0),
        unrolls=8,
        monkeypatch=monkeypatch,
    )


def test_through_ray(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the core of the most kinds of state: what is sent is arrays by name, whichever core they are of."""
    session = start_ray(1)
    try:
        fields = {"learning_rate": 0.0, "num_actors": 1}
        check(
            make_config("tests.agents.scripted_envs:RandomEpisodes-v0", "compressive", **fields),
            unrolls=8,
            monkeypatch=monkeypatch,
        )
    finally:
        session.close()
