"""Evaluation while an agent trains: on its own episodes, and without a trace in what is learned."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from agents.config import ExperimentConfig
from agents.evaluation import evaluate
from agents.held_out import SEED
from agents.trainer import ImpalaTrainer
from envs import EnvFault
from tests.equality import same
from tests.lm.synthetic import StopAt, update_and_evaluate
from training.held_out import Stopped, never_stop

MakeConfig = Callable[..., ExperimentConfig]
DICE = "tests.agents.scripted_envs:GlobalDice-v0"


def test_training_with_evaluations_is_training_without(make_config: MakeConfig) -> None:
    plain = ImpalaTrainer(make_config(DICE))
    assert plain.held_out is None
    expected = [plain.update() for _ in range(4)]
    trainer = ImpalaTrainer(make_config(DICE, evaluation_interval=2, evaluation_episodes=5))
    rows = [update_and_evaluate(trainer) for _ in range(4)]
    assert [{tag: row[tag] for tag in expected[0]} for row in rows] == expected
    assert same(trainer.state(), plain.state())
    assert [sorted(row.keys() - expected[0]) for row in rows] == [[], ["evaluation/length", "evaluation/return"]] * 2
    direct = evaluate(trainer.config, trainer.weights(), 5, SEED)
    assert rows[-1]["evaluation/return"] == direct.mean_return


def test_an_evaluation_stops_when_it_is_asked_to(make_config: MakeConfig) -> None:
    config = make_config("tests.agents.scripted_envs:ConstantReward-v0", evaluation_interval=1)
    held_out = ImpalaTrainer(config).held_out
    assert held_out is not None
    stop = StopAt(3)
    with pytest.raises(Stopped):
        held_out.measure(stop)  # of episodes without an end
    assert stop.calls == 3


def test_an_environment_that_faults_costs_an_evaluation_and_not_the_run(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*arguments: object, **options: object) -> None:
        raise EnvFault("environment of row 0, episode 0 (seed 1), step 3: step raised ValueError")

    trainer = ImpalaTrainer(make_config(DICE, evaluation_interval=1))
    monkeypatch.setattr("agents.held_out.evaluate", fails)
    assert trainer.held_out is not None
    assert trainer.held_out.measure(never_stop) == {}
    assert "an evaluation is left out: environment of row 0" in caplog.text


def test_scores_of_other_episodes_are_told_apart(make_config: MakeConfig) -> None:
    config = make_config(DICE, evaluation_interval=1)
    more = dataclasses.replace(config, train=dataclasses.replace(config.train, evaluation_episodes=21))
    first, second = (ImpalaTrainer(variant).held_out for variant in (config, more))
    assert first is not None
    assert second is not None
    assert first.basis != second.basis
