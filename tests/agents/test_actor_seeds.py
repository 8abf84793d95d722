"""A resume with other actors plays no episode again, and goes from actor processes to none and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.actor import first_row
from agents.actor_pool import COUNTS
from agents.actor_seeds import ActorSeeds
from agents.config import AgentConfig, EnvConfig, ExperimentConfig, TrainConfig
from agents.local_actor import LocalActor
from agents.trainer import ImpalaTrainer
from tests.equality import same
from training.config import CoreConfig, RunConfig

MakeConfig = Callable[..., ExperimentConfig]
RANDOM_EPISODES = "tests.agents.scripted_envs:RandomEpisodes-v0"


def experiment(num_actors: int, rows: int) -> ExperimentConfig:
    return ExperimentConfig(
        EnvConfig(RANDOM_EPISODES),
        CoreConfig("lstm", 16),
        AgentConfig(num_actors=num_actors, envs_per_actor=rows, batch_size=rows),
        TrainConfig(total_steps=1000),
        RunConfig("run"),
    )


part = st.tuples(st.integers(0, 20), st.integers(1, 8), st.lists(st.integers(0, 2), min_size=1, max_size=20))


@given(st.lists(part, min_size=1, max_size=5))
def test_no_row_is_given_out_twice_however_the_actors_change(parts: list[tuple[int, int, list[int]]]) -> None:
    """Parts of a run: the number of actors, of environments of each, and restarts of the actors."""
    given_out: set[int] = set()
    state = None
    for num_actors, rows, restarts in parts:
        config = experiment(num_actors, rows)
        seeds, count = ActorSeeds(config), max(num_actors, 1)
        incarnations = [0] * count if state is None else [last + 1 for last in seeds.load(state)]
        for index in range(count):
            for _ in range(1 + restarts[index % len(restarts)]):
                first = first_row(config, index, incarnations[index], seeds.past_rows)
                mine = set(range(first, first + rows))
                assert not mine & given_out
                given_out |= mine
                incarnations[index] += 1
            incarnations[index] -= 1
        state = seeds.state(incarnations)


def test_from_16_actors_to_2_all_episodes_are_new() -> None:
    before, after = ActorSeeds(experiment(16, 4)), ActorSeeds(experiment(2, 4))
    played = {first_row(before.config, index, 0, 0) + row for index in range(16) for row in range(4)}
    last = after.load(before.state([0] * 16))
    new = {
        first_row(after.config, index, last[index] + 1 + restart, after.past_rows) + row
        for index in range(2)
        for restart in range(12)
        for row in range(4)
    }
    assert len(new) == 96
    assert not new & played


def state_of_a_pool(config: ExperimentConfig, incarnations: list[int]) -> dict[str, Any]:
    seeds = ActorSeeds(dataclasses.replace(config, agent=dataclasses.replace(config.agent, num_actors=2)))
    return {"seeds": seeds.state(incarnations), "counts": dict.fromkeys(COUNTS, 0) | {"actors/restarts": 3}}


def test_a_run_of_actor_processes_goes_on_without_them(make_config: MakeConfig) -> None:
    config = make_config(RANDOM_EPISODES)
    trainer = ImpalaTrainer(config)
    trainer.update()
    state = trainer.state() | {"actors": state_of_a_pool(config, [0, 4])}
    again = ImpalaTrainer(config)
    (warning,) = again.load(trainer.weights(), state)
    assert "new episodes begin, with an empty memory" in warning
    assert isinstance(again.actors, LocalActor)
    assert again.actors.actor.envs.first_row == (5 * 2) * 4 + 5 * 4
    metrics = again.update()
    assert metrics["actors/restarts"] == 3
    # From here on it is exact again.
    third = ImpalaTrainer(config)
    assert third.load(again.weights(), again.state()) == []
    assert third.update() == again.update()
    assert same(third.state(), again.state())


def test_another_number_of_environments_begins_new_episodes(make_config: MakeConfig) -> None:
    trainer = ImpalaTrainer(make_config(RANDOM_EPISODES))
    trainer.update()
    wider = ImpalaTrainer(make_config(RANDOM_EPISODES, envs_per_actor=8, batch_size=8))
    assert len(wider.load(trainer.weights(), trainer.state())) == 1
    assert np.isfinite(wider.update()["loss/total"])


def test_options_of_the_optimizer_apply_on_resume(make_config: MakeConfig) -> None:
    first = ImpalaTrainer(make_config(RANDOM_EPISODES, optimizer="rmsprop"))
    first.update()
    fields = {"optimizer": "rmsprop", "optimizer_eps": 1e-3, "rmsprop_decay": 0.5}
    second = ImpalaTrainer(make_config(RANDOM_EPISODES, **fields))
    second.load(first.weights(), first.state())
    (group,) = second.learner.optimizer.param_groups
    assert (group["eps"], group["alpha"]) == (1e-3, 0.5)


@pytest.mark.parametrize("field", ["optimizer", "seed", "kwargs"])
def test_what_cannot_change_is_in_the_fingerprint(make_config: MakeConfig, field: str) -> None:
    fields: dict[str, Any] = {
        "optimizer": {"optimizer": "rmsprop"},
        "seed": {"seed": 7},
        "kwargs": {"env_kwargs": {"length": 7}},
    }[field]
    environment = "envs:TMaze-v0"
    assert (
        ImpalaTrainer(make_config(environment, **fields)).fingerprint()
        != ImpalaTrainer(make_config(environment)).fingerprint()
    )
