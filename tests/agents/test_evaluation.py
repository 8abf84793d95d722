"""Evaluation: how many environments it makes, endless episodes, pictures, progress and advice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from torch import Tensor

import envs
from agents.config import ExperimentConfig
from agents.core_inputs import core_inputs
from agents.evaluation import evaluate
from agents.policy import make_policy
from envs import EnvError
from training.errors import InputError
from training.weights import weights_of

MakeConfig = Callable[..., ExperimentConfig]
SINGLE = "tests.agents.scripted_envs:Single-v0"
ENDLESS = "tests.agents.scripted_envs:ConstantReward-v0"
RANDOM_EPISODES = "tests.agents.scripted_envs:RandomEpisodes-v0"


def fresh_weights(config: ExperimentConfig) -> dict[str, Tensor]:
    env = envs.make(config.env.id, config.env.kwargs)
    env.close()  # type: ignore[no-untyped-call]
    return weights_of(make_policy(config, env.observation_space, env.action_space))


def test_no_more_environments_are_made_than_an_actor_has(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(SINGLE, envs_per_actor=1)
    weights = fresh_weights(config)
    assert evaluate(config, weights, episodes=3, video=tmp_path / "first.gif").episodes == 3
    assert core_inputs(config, weights, 4, lambda core: 5)[1].shape[:2] == (1, 5)
    with pytest.raises(EnvError, match="one simulator a process"):
        evaluate(config, weights, episodes=3, num_envs=2)


def test_the_number_of_environments_can_be_chosen(make_config: MakeConfig) -> None:
    config = make_config(RANDOM_EPISODES)
    weights = fresh_weights(config)
    assert evaluate(config, weights, episodes=20) == evaluate(config, weights, episodes=20, num_envs=4)
    assert evaluate(config, weights, episodes=20) != evaluate(config, weights, episodes=20, num_envs=5)


def test_an_endless_episode_is_cut_and_counted(make_config: MakeConfig) -> None:
    config = make_config(ENDLESS)
    weights = fresh_weights(config)
    told: list[tuple[int, int]] = []
    result = evaluate(config, weights, 3, max_steps=7, progress=lambda *counts: told.append(counts))
    assert (result.cut_episodes, result.mean_length, result.mean_return) == (3, 7, 7)
    assert told[0] == (0, 3)
    assert told[-1] == (3, 21)
    config = make_config(ENDLESS, env_kwargs={"mean_time_limit": 4})
    assert evaluate(config, weights, 30, max_steps=7).cut_episodes == 0


@pytest.mark.parametrize(("name", "message"), [("no/first.gif", "there is no folder"), ("first.avi", "ending in .gif")])
def test_where_a_video_cannot_be_written_nothing_is_played(
    make_config: MakeConfig, tmp_path: Path, name: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        evaluate(make_config("no_such_module:Env-v0"), {}, video=tmp_path / name)


@pytest.mark.parametrize(("env_id", "message"), [(RANDOM_EPISODES, "gives no pictures"), (ENDLESS, "render_mode")])
def test_an_environment_that_cannot_be_drawn_is_one_error(
    make_config: MakeConfig, tmp_path: Path, env_id: str, message: str, recwarn: pytest.WarningsRecorder
) -> None:
    config = make_config(env_id)
    with pytest.raises(EnvError, match=message):
        evaluate(config, fresh_weights(config), video=tmp_path / "first.gif")


def test_statistics_kept_in_a_wrapper_are_warned_of(make_config: MakeConfig, caplog: pytest.LogCaptureFixture) -> None:
    config = make_config(RANDOM_EPISODES, env_kwargs={"wrappers": [{"NormalizeObservation": {}}]})
    evaluate(config, fresh_weights(config), episodes=1)
    assert "use agent.normalize_observations=true in its place" in caplog.text
