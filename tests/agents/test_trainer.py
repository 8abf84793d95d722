"""The whole loop: repeatable, resumable, and honest about what it could not restore."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

import envs
import memory_cores
from agents.config import ExperimentConfig
from agents.trainer import ImpalaTrainer
from tests.agents.test_acting_is_learning import check_unroll
from tests.equality import same

MakeConfig = Callable[..., ExperimentConfig]
RANDOM_EPISODES = "tests.agents.scripted_envs:RandomEpisodes-v0"


def through_a_file(data: Any) -> Any:
    """As a checkpoint would keep it."""
    buffer = io.BytesIO()
    torch.save(data, buffer)
    return torch.load(io.BytesIO(buffer.getvalue()), weights_only=True)


def run(trainer: ImpalaTrainer, updates: int) -> list[dict[str, float]]:
    return [trainer.update() for _ in range(updates)]


@pytest.mark.parametrize("core", memory_cores.names())
def test_runs_repeat_and_resume_bitwise(make_config: MakeConfig, core: str) -> None:
    config = make_config(RANDOM_EPISODES, core, batch_size=8, unroll_length=6)
    whole, again, first = (ImpalaTrainer(config) for _ in range(3))
    metrics = run(whole, 8)
    assert run(again, 8) == metrics
    assert same(again.weights(), whole.weights())

    assert run(first, 4) == metrics[:4]
    weights, state = through_a_file(first.weights()), through_a_file(first.state())
    torch.manual_seed(123)
    second = ImpalaTrainer(config)
    assert second.load(weights, state) == []
    assert run(second, 4) == metrics[4:]
    assert same(second.weights(), whole.weights())
    assert same(second.state(), whole.state())


def test_nested_actions_and_words_are_learned_resumed_and_acted_on_alike(make_config: MakeConfig) -> None:
    rows = {"envs_per_actor": 8, "batch_size": 8}
    config = make_config("tests.agents.scripted_envs:Levers-v0", learning_rate=0.01, discount=0.0, **rows)
    whole, first = ImpalaTrainer(config), ImpalaTrainer(config)
    metrics = run(whole, 40)
    assert metrics[-1]["episode/success"] > 0.9
    assert metrics[-1]["envs/faults"] == 0
    run(first, 4)
    second = ImpalaTrainer(config)
    assert second.load(through_a_file(first.weights()), through_a_file(first.state())) == []
    assert run(second, 4) == metrics[4:8]
    second.update()
    second.actors.publish({name: w.numpy() for name, w in second.weights().items()}, second.update_count)
    check_unroll(second, second.actors.next_unroll())


def test_what_is_let_pass_is_counted_and_told_once(make_config: MakeConfig, caplog: pytest.LogCaptureFixture) -> None:
    plain = make_config("tests.agents.scripted_envs:Sloppy-v0")
    with pytest.raises(
        envs.EnvFault, match=r"reward is array\(\[1\.\]\), expected a number; env\.lenient=true takes it"
    ):
        run(ImpalaTrainer(plain), 8)
    config = replace(plain, env=replace(plain.env, lenient=True))
    trainer = ImpalaTrainer(config)
    metrics = run(trainer, 3)
    assert metrics[-1]["envs/faults"] == 0
    assert metrics[-1]["envs/forgiven"] >= 3 * 8
    assert caplog.text.count("a reward is an array of one number") == 1
    assert caplog.text.count("observation is slightly out of bounds") == 1
    again = ImpalaTrainer(config)
    again.load(through_a_file(trainer.weights()), through_a_file(trainer.state()))
    assert again.update()["envs/forgiven"] > metrics[-1]["envs/forgiven"]


def test_seeds_differ(make_config: MakeConfig) -> None:
    one, two = (ImpalaTrainer(make_config(RANDOM_EPISODES, seed=seed)) for seed in (1, 2))
    assert run(one, 2) != run(two, 2)


def test_global_generators_are_seeded_and_numbers_of_the_last_info_are_curves(make_config: MakeConfig) -> None:
    config = make_config("tests.agents.scripted_envs:GlobalDice-v0")
    metrics = [run(ImpalaTrainer(config), 8) for _ in range(2)]
    assert metrics[0] == metrics[1]
    assert metrics[0][-1]["episode_info/laps"] == 3


def test_counts_transitions_not_bootstrap_entries(make_config: MakeConfig) -> None:
    trainer = ImpalaTrainer(make_config(RANDOM_EPISODES, unroll_length=50))
    trainer.update()
    assert 0 < trainer.step_count < 4 * 50


def test_unrolls_beyond_the_lag_bound_are_dropped_and_counted(make_config: MakeConfig) -> None:
    trainer = ImpalaTrainer(make_config(RANDOM_EPISODES, max_policy_lag=1))
    run(trainer, 3)
    fresh = trainer.actors.next_unroll
    stale = iter([True, True, False])

    def next_unroll() -> Any:
        unroll = fresh()
        if next(stale):
            object.__setattr__(unroll, "version", 0)
        return unroll

    trainer.actors.next_unroll = next_unroll
    metrics = trainer.update()
    assert metrics["learner/dropped_unrolls"] == 2
    assert metrics["learner/policy_lag_max"] <= 1
