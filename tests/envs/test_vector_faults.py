"""What the vector refuses: broken environments, impossible actions, unequal environments."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

import envs
from envs.episodes import episode_seed
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
        ({"reward": np.zeros(1)}, r"reward is array.*; env\.lenient=true takes it"),
        ({"reward": np.zeros(2)}, r"reward is array\(\[0\., 0\.\]\), expected a number$"),
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
        (
            spaces.Dict({"a": spaces.Dict({"b": BOX})}),
            {"a": {"b": np.zeros(3, np.float32), "goal": 1}},
            r"observation\['a'\] has 2 entries, expected the 1 of its space: 'goal'",
        ),
        (spaces.Tuple((BOX,)), (np.zeros(3, np.float32), 1), "observation has 2 entries, expected the 1 of its space$"),
        (spaces.MultiBinary(2), np.array([0, 2], np.int8), "has 2, expected finite values from 0 to 1"),
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
        (spaces.Tuple((spaces.Discrete(2), spaces.Discrete(3))), np.array([[0.0, 0.0], [2.0, 0.0]])),
        (spaces.Tuple((spaces.Discrete(2),)), np.array([0.0, 1.0])),
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


class Counting(Scripted):
    """Endless; faults at the steps of all instances that `faults` names, in the way it names."""

    def __init__(self, faults: dict[int, Any], counter: list[int], ends: Any = ((10**9, True, False),)) -> None:
        super().__init__(list(ends))
        self.faults, self.counter = faults, counter
        self.closed = False

    def step(self, action: Any) -> Any:
        self.counter[0] += 1
        fault = self.faults.get(self.counter[0], self.faults.get(0))
        if isinstance(fault, BaseException):
            raise fault
        observation, reward, terminated, truncated, info = super().step(action)
        return (observation if fault is None else fault), reward, terminated, truncated, info

    def close(self) -> None:
        self.closed = True


NAN = np.array([np.nan, 0], np.float32)
FAULTS = [RuntimeError("the maze fell in"), SystemExit(1), NAN, np.zeros(3, np.float32), np.array([0, 2e6], np.float32)]


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_fault_costs_one_episode_of_one_row(fault: Any) -> None:
    counter, made = [0], []

    def make() -> Counting:
        made.append(Counting({} if len(made) == 0 else {3: fault}, counter if made else [0]))
        return made[-1]

    vector = envs.EnvVector(make, num_envs=2, seed=4, max_faults=2)
    twin = envs.EnvVector(lambda: Scripted([(10**9, True, False)]), num_envs=2, seed=4)
    for step in range(1, 7):
        before = vector.entry
        transition, expected = vector.step(np.array([1, 2])), twin.step(np.array([1, 2]))
        # The other row does not notice.
        for name in ("reward", "terminated", "truncated", "valid"):
            assert getattr(transition, name)[0] == getattr(expected, name)[0]
        np.testing.assert_array_equal(
            vector.entry.observation["observation"][0], twin.entry.observation["observation"][0]
        )
        assert transition.valid[1] == (step != 3)
        assert vector.entry.reset[1] == (step == 3)
        assert np.isfinite(before.observation["observation"]).all()
        if step == 3:
            assert (transition.reward[1], vector.entry.last_action[1], vector.entry.last_reward[1]) == (0, 0, 0)
            first = [episode_seed(4, 1, 1, False) % 1000, 0]
            np.testing.assert_array_equal(vector.entry.observation["observation"][1], first)
    assert [env.closed for env in made] == [False, True, False]  # made again once
    (noted,) = vector.pop_faults()
    assert (noted.row, noted.retired, vector.num_retired) == (1, False, 0)
    assert vector.pop_faults() == []
    assert vector.pop_episodes() == []


def test_a_row_that_always_faults_is_retired_and_shows_nothing() -> None:
    made: list[Counting] = []
    space = spaces.Box(1.0, 1e6, (2,), np.float32)

    def make() -> Counting:
        made.append(Counting({} if not made else {0: ValueError("deep down")}, [0]))
        made[-1].observation_space = space
        made[-1].observation = lambda: np.full(2, 7, np.float32)  # type: ignore[method-assign]
        return made[-1]

    vector = envs.EnvVector(make, num_envs=2, seed=0, max_faults=3)
    valid = [vector.step(np.array([0, 0])).valid.tolist() for _ in range(8)]
    assert valid == [[True, False]] * 8
    assert len(made) == 2 + 2
    assert all(env.closed for env in made[1:])
    assert vector.num_retired == 1
    faults = vector.pop_faults()
    assert [fault.retired for fault in faults] == [False, False, True]
    assert "deep down" in faults[-1].message
    assert "in step" in faults[-1].traceback  # where it happened
    assert vector.entry.reset.tolist() == [False, True]
    np.testing.assert_allclose(vector.entry.observation["observation"], [[7, 7], [1, 1]], atol=1e-4)

    saved = vector.state()
    made.clear()
    other = envs.EnvVector(make, num_envs=2, seed=0, max_faults=3)
    assert other.load(saved) == []
    assert other.num_retired == 1
    assert other.step(np.array([0, 0])).valid.tolist() == [True, False]


def test_a_finished_episode_renews_the_budget() -> None:
    counter = [0]
    faults = dict.fromkeys(range(2, 100, 5), RuntimeError("now and then"))
    vector = envs.EnvVector(lambda: Counting(faults, counter, [(3, True, False)]), 1, seed=0, max_faults=2)
    for _ in range(60):
        vector.step(np.array([0]))
    assert len(vector.pop_faults()) >= 10
    assert vector.num_retired == 0


def test_when_the_last_row_is_retired_the_vector_ends_with_the_cause() -> None:
    vector = envs.EnvVector(
        lambda: Counting({0: RuntimeError("the maze fell in")}, [0]), num_envs=2, seed=0, max_faults=2
    )
    vector.step(np.array([0, 0]))
    with pytest.raises(envs.EnvFault, match=r"every environment of the vector is retired.*the maze fell in"):
        vector.step(np.array([0, 0]))


def test_a_reset_that_raises_after_an_episode_keeps_the_episode() -> None:
    class Once(Scripted):
        def reset(self, **kwargs: Any) -> Any:
            if self.resets == 1 and not made_again:
                made_again.append(True)
                raise RuntimeError("no way back")
            return super().reset(**kwargs)

    made_again: list[bool] = []
    vector = envs.EnvVector(lambda: Once([(2, True, False)]), num_envs=1, seed=0, max_faults=2)
    transitions = [vector.step(np.array([0])) for _ in range(4)]
    assert [t.valid[0] for t in transitions] == [True] * 4
    assert [t.terminated[0] for t in transitions] == [False, True, False, True]
    assert [episode.episode for episode in vector.pop_episodes()] == [0, 2]


def test_memory_that_runs_out_is_no_fault_of_one_environment() -> None:
    vector = envs.EnvVector(lambda: Counting({0: MemoryError()}, [0]), num_envs=2, seed=0, max_faults=3)
    with pytest.raises(MemoryError):
        vector.step(np.array([0, 0]))


@pytest.mark.parametrize(
    ("space", "inside", "outside"),
    [
        (spaces.Box(-1.0, 1.0, (2,), np.float32), [1.000005, -1.0], [1.001, 0.0]),
        (spaces.Box(np.array([0, -np.inf], np.float32), np.inf, (2,), np.float32), [0.0, -1e17], [-0.1, 0.0]),
        (spaces.Box(0, 200, (2,), np.uint8), [0, 200], [0, 201]),
        (spaces.Box(-3.4e38, 3.4e38, (2,), np.float32), [1e18, 0.0], [np.inf, 0.0]),
        (spaces.Box(-3.4e38, 3.4e38, (2,), np.float32), [0.0, 0.0], [1e30, 0.0]),
        (spaces.Box(-np.inf, np.inf, (2,), np.float64), [0.0, -1e17], [1e300, 0.0]),
        (spaces.Box(-np.inf, np.inf, (2,), np.int64), [0, 10**17], [0, -2 * 10**18]),
        (spaces.Box(0, 2**64 - 1, (2,), np.uint64), [0, 10**17], [0, 2 * 10**18]),
    ],
    ids=str,
)
def test_bounds_of_a_box_are_held_but_for_rounding(space: spaces.Box, inside: Any, outside: Any) -> None:
    class At(Drifting):
        value = inside

        def observation(self) -> Any:
            return np.array(self.value, space.dtype)

    vector = envs.EnvVector(lambda: At(space, spaces.Discrete(2)), num_envs=2, seed=0)
    vector.step(np.array([0, 0]))
    At.value = outside
    with pytest.raises(envs.EnvFault, match=r"observation has .*, expected finite values from"):
        vector.step(np.array([0, 0]))


def test_ends_of_unrolls_with_faults_are_bootstrapped_where_the_episode_broke_off() -> None:
    """What the learner makes of it: the transition before the fault has the value of the entry after it."""
    import agents.vtrace

    counter = [0]
    vector = envs.EnvVector(lambda: Counting({3: RuntimeError("x")}, counter), num_envs=1, seed=0, max_faults=2)
    steps = [vector.step(np.array([0])) for _ in range(4)]

    def over_time(name: str) -> torch.Tensor:
        return torch.tensor(np.array([getattr(step, name) for step in steps])).reshape(1, -1)

    values = torch.tensor([[10.0, 20.0, 30.0, 40.0]])
    targets = agents.vtrace.vtrace(
        log_ratios=torch.zeros(1, 4),
        discounts=0.5 * (~over_time("terminated")),
        rewards=over_time("reward"),
        values=values,
        bootstrap_value=torch.tensor([50.0]),
        valid=over_time("valid"),
        rho_bar=1.0,
        c_bar=1.0,
        trace_decay=1.0,
    )
    # Rewards 1, 2, (fault), 1: r1 + g r2 + g^2 V(third entry), and so on; the entry of the fault keeps its own value.
    expected = [1 + 0.5 * (2 + 0.5 * 30), 2 + 0.5 * 30, 30, 1 + 0.5 * 50]
    torch.testing.assert_close(targets.values, torch.tensor([expected]))
