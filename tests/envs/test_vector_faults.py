"""What the vector refuses: broken environments, impossible actions, unequal environments."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

import envs
from envs.vector import episode_seed
from tests.envs.scripted import Drifting, Scripted

BOX = spaces.Box(-1.0, 1.0, (3,), np.float32)


class Faulty(Scripted):
    """Answers its second step with `answer`, some of whose five parts are wrong."""

    def __init__(self, **wrong: Any) -> None:
        super().__init__([(10, True, False)])
        self.wrong = wrong

    def step(self, action: Any) -> Any:
        observation, reward, terminated, truncated, info = super().step(action)
        answer = {"observation": observation, "reward": reward, "terminated": terminated, "info": info}
        if self.steps == 2:
            answer |= self.wrong
            if isinstance(answer["info"], Exception):
                raise answer["info"]
        return answer["observation"], answer["reward"], answer["terminated"], truncated, answer["info"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"reward": float("nan")}, "reward is nan"),
        ({"reward": -float("inf")}, "reward is -inf"),
        ({"reward": 1e38}, "reward is 1e"),
        ({"reward": None}, "reward is None, expected a number"),
        ({"reward": np.zeros(1)}, "reward is array"),
        ({"reward": "1"}, "reward is '1'"),
        ({"observation": np.array([np.nan, 0], np.float32)}, "has nan, expected finite"),
        ({"observation": np.zeros(3, np.float32)}, r"shape \(3,\), expected \(2,\)"),
        ({"observation": np.float32(0)}, r"shape \(\), expected \(2,\)"),
        ({"observation": np.zeros(2, complex)}, "dtype complex128, expected float32"),
        ({"observation": None}, r"shape \(\), expected \(2,\)"),
        ({"observation": [[1], [2, 3]]}, "observation"),
        ({"terminated": True, "info": None}, "info is NoneType, expected dict"),
        ({"terminated": np.array([True, False])}, "raised ValueError"),
        ({"info": ZeroDivisionError("in the physics")}, "raised ZeroDivisionError: in the physics"),
    ],
    ids=str,
)
def test_a_broken_environment_is_a_fault_that_says_where(wrong: dict[str, Any], message: str) -> None:
    made = iter([Scripted([(10, True, False)]), Faulty(**wrong)])
    vector = envs.EnvVector(lambda: next(made), num_envs=2, seed=0, first_row=6)
    vector.step(np.array([0, 0]))
    seed = episode_seed(0, 7, 0, False)
    with pytest.raises(envs.EnvFault, match=message) as caught:
        vector.step(np.array([0, 0]))
    assert "row 7" in str(caught.value)
    if "info" not in wrong:
        assert f"seed {seed}" in str(caught.value)


@pytest.mark.parametrize("reward", [1, True, np.float32(1), np.int64(1), np.array(1.0)], ids=repr)
def test_rewards_of_any_number_type_are_taken(reward: Any) -> None:
    vector = envs.EnvVector(lambda: Faulty(reward=reward), num_envs=1, seed=0)
    vector.step(np.array([0]))
    assert vector.step(np.array([0])).reward.tolist() == [1.0]


@pytest.mark.parametrize(
    ("space", "bad", "message"),
    [
        (spaces.Discrete(3, start=2), 5, "has 5, expected values from 2 to 4"),
        (spaces.Discrete(3), -1, "has -1, expected values from 0 to 2"),
        (spaces.MultiDiscrete([2, 2]), np.array([0, 2]), "has 2, expected values"),
        (spaces.Dict({"a": spaces.Discrete(2), "b": BOX}), {"a": 0}, r"observation\['b'\] is missing"),
        (spaces.Tuple((BOX, BOX)), (np.zeros(3, np.float32),), r"observation\[1\] is missing"),
        (spaces.Dict({"a": BOX}), 3, r"observation\['a'\] is missing"),
    ],
    ids=str,
)
def test_values_outside_their_space_are_faults(space: Any, bad: Any, message: str) -> None:
    class Outside(Drifting):
        def observation(self) -> Any:
            return bad

    with pytest.raises(envs.EnvFault, match=message):
        envs.EnvVector(lambda: Outside(space, spaces.Discrete(2)), num_envs=2, seed=0)


def test_an_observation_of_wider_floats_is_cast() -> None:
    class Wide(Drifting):
        def observation(self) -> Any:
            return np.full(3, 0.5)

    vector = envs.EnvVector(lambda: Wide(BOX, spaces.Discrete(2)), num_envs=2, seed=0)
    observation = vector.entry.observation["observation"]
    assert observation.dtype == np.float32
    np.testing.assert_array_equal(observation, np.full((2, 3), 0.5))


@pytest.mark.parametrize(
    ("space", "actions"),
    [
        (spaces.Discrete(3), np.array([0, 3])),
        (spaces.Discrete(3), np.array([-1, 0])),
        (spaces.Discrete(3), np.array([0])),
        (spaces.Discrete(3), np.array([0.0, 1.0])),
        (spaces.MultiDiscrete([2, 3]), np.array([[0, 0], [2, 0]])),
        (BOX, np.array([[0, 0, np.nan], [0, 0, 0]], np.float32)),
    ],
    ids=str,
)
def test_impossible_actions_are_refused(space: Any, actions: Any) -> None:
    vector = envs.EnvVector(lambda: Drifting(BOX, space), num_envs=2, seed=0)
    with pytest.raises(ValueError, match="actions"):
        vector.step(actions)


def test_unequal_environments_are_refused_and_closed() -> None:
    closed = []

    class Closing(Drifting):
        def close(self) -> None:
            closed.append(self)
            raise RuntimeError("stuck")

    sizes = iter([2, 3])
    with pytest.raises(envs.EnvError, match="action_space of one environment is Discrete"):
        envs.EnvVector(lambda: Closing(BOX, spaces.Discrete(next(sizes))), num_envs=2, seed=0)
    assert len(closed) == 2


def test_no_environment_is_an_error() -> None:
    with pytest.raises(envs.EnvError, match="num_envs is 0"):
        envs.EnvVector(lambda: envs.make("CartPole-v1"), num_envs=0, seed=0)


def test_only_finite_numbers_of_the_last_info_are_kept() -> None:
    info = {
        "laps": np.int64(3),
        "lost": float("nan"),
        "name": "x",
        "is_success": np.array([True]),
        "fast": True,
    }
    vector = envs.EnvVector(lambda: Faulty(terminated=True, info=info), num_envs=1, seed=0)
    for _ in range(2):
        vector.step(np.array([0]))
    torch.save(state := vector.state(), file := io.BytesIO())
    file.seek(0)
    assert str(torch.load(file, weights_only=True)) == str(state)
    (episode,) = vector.pop_episodes()
    assert episode.info == {"laps": 3.0, "fast": 1.0}
    assert episode.success is True


def test_a_vector_can_be_closed_twice() -> None:
    vector = envs.EnvVector(lambda: envs.make("CartPole-v1"), num_envs=2, seed=0)
    vector.close()
    vector.close()
