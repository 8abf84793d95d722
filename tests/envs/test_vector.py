"""The vector against a plain loop, its exact restart, its seeds, and what it refuses."""

from __future__ import annotations

import io
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

import envs
from envs.episodes import episode_seed
from envs.spaces import leaves
from envs.text import hashed_words
from tests.envs.scripted import Drifting, Scripted

BOX = spaces.Box(-1.0, 1.0, (3,), np.float32)
NEST = spaces.Dict(
    {
        "position": BOX,
        "parts": spaces.Tuple((spaces.Discrete(5, start=-2), spaces.MultiDiscrete([2, 7]))),
        "picture": spaces.Box(0, 255, (4, 4, 3), np.uint8),
    }
)
NUMBER = spaces.Box(-1.0, 1.0, (), np.float64)
BITS = spaces.MultiBinary((2, 3))
OBSERVATIONS = [BOX, NUMBER, BITS, spaces.Discrete(4), spaces.Discrete(5, start=10), spaces.MultiDiscrete([3, 2]), NEST]
OBSERVATIONS += [spaces.Dict({"mission": spaces.Text(90, charset="dehkrty "), "place": BOX})]
ACTIONS = [spaces.Discrete(3), spaces.Discrete(2, start=5), spaces.MultiDiscrete([[2, 3], [4, 2]]), BOX, NUMBER, BITS]
ACTIONS += [spaces.Dict({"act": spaces.Discrete(3, start=4), "arm": spaces.Tuple((BOX, BITS))})]


def sample_actions(vector: envs.EnvVector, rng: np.random.Generator) -> Any:
    space = vector.action_space
    match space:
        case spaces.Discrete():
            return rng.integers(0, space.n, vector.num_envs)
        case spaces.MultiDiscrete():
            return rng.integers(0, space.nvec, (vector.num_envs, *space.nvec.shape))
        case spaces.MultiBinary():
            return rng.integers(0, 2, (vector.num_envs, *space.shape))
        case spaces.Dict():
            rows = vector.num_envs
            numbers = rng.normal(size=(rows, 3)).astype(np.float32)
            return np.concatenate([rng.integers(0, 3, (rows, 1)), numbers, rng.integers(0, 2, (rows, 6))], axis=1)
    return rng.normal(size=(vector.num_envs, *(space.shape or ()))).astype(np.float32)


def arrays(tree: Any) -> list[Any]:
    """The leaves of a nest of dicts and tuples."""
    if isinstance(tree, dict):
        tree = tuple(tree.values())
    return [leaf for part in tree for leaf in arrays(part)] if isinstance(tree, tuple) else [tree]


def entry_arrays(entry: envs.Entry) -> list[Any]:
    return [*arrays(entry.observation), entry.reset, entry.last_action, entry.last_reward]


def assert_same(left: list[Any], right: list[Any]) -> None:
    for a, b in zip(left, right, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def loop_oracle(env: gymnasium.Env[Any, Any], actions: list[int], seeds: list[int]) -> list[tuple[Any, ...]]:
    """One row in the plainest way: the entry before each step, and the transition."""
    rows = []
    remaining = iter(seeds)
    observation, reset, last_action, last_reward, at_bootstrap = (
        env.reset(seed=next(remaining))[0],
        True,
        0,
        0.0,
        False,
    )
    for action in actions:
        before = (observation, reset, last_action, np.float32(last_reward))
        if at_bootstrap:
            rows.append((*before, 0.0, False, False, False))
            observation, reset, last_action, last_reward = env.reset(seed=next(remaining))[0], True, 0, 0.0
            at_bootstrap = False
            continue
        observation, reward, terminated, truncated, _ = env.step(action)
        rows.append((*before, np.float32(reward), terminated, truncated and not terminated, True))
        reset, last_action, last_reward = False, action, reward
        if terminated:
            observation, reset, last_action, last_reward = env.reset(seed=next(remaining))[0], True, 0, 0.0
        at_bootstrap = truncated and not terminated
    return rows


ends = st.tuples(st.integers(1, 4), st.booleans(), st.booleans())


@given(script=st.lists(ends, min_size=1, max_size=4), seed=st.integers(0, 2**31 - 1), steps=st.integers(1, 25))
@settings(max_examples=60, deadline=None)
def test_every_field_agrees_with_a_plain_loop(script: Any, seed: int, steps: int) -> None:
    vector = envs.EnvVector(lambda: Scripted(script), num_envs=2, seed=seed, first_row=3)
    actions = np.random.default_rng(seed).integers(0, 3, (steps, 2))
    oracle = [
        loop_oracle(
            Scripted(script),
            actions[:, i].tolist(),
            [episode_seed(seed, 3 + i, k, False) for k in range(steps + 1)],
        )
        for i in range(2)
    ]
    for t in range(steps):
        entry, transition = vector.entry, vector.step(actions[t])
        for i in range(2):
            observation, *expected = oracle[i][t]
            np.testing.assert_array_equal(entry.observation["observation"][i], observation)
            got = (entry.reset[i], entry.last_action[i], entry.last_reward[i], transition.reward[i])
            assert [*got, transition.terminated[i], transition.truncated[i], transition.valid[i]] == expected


def test_terminated_and_truncated_at_once_is_terminated() -> None:
    vector = envs.EnvVector(lambda: Scripted([(1, True, True)]), num_envs=1, seed=0)
    transition = vector.step(np.array([2]))
    assert transition.terminated[0]
    assert not transition.truncated[0]
    assert vector.entry.reset[0]


def test_a_bootstrap_entry_shows_the_final_observation_and_does_not_step() -> None:
    made: list[Scripted] = []

    def make() -> Scripted:
        made.append(Scripted([(2, False, True)]))
        return made[-1]

    vector = envs.EnvVector(make, num_envs=1, seed=0)
    vector.step(np.array([0]))
    assert vector.step(np.array([1])).truncated[0]
    assert vector.entry.observation["observation"][0, 1] == 2
    assert vector.entry.last_action[0] == 1
    assert not vector.entry.reset[0]
    assert not vector.step(np.array([2])).valid[0]
    assert made[0].steps_taken == 2
    assert vector.entry.reset[0]
    assert vector.entry.last_action[0] == 0


def test_episodes_are_reported_once_with_their_return_and_success() -> None:
    vector = envs.EnvVector(lambda: Scripted([(2, True, False), (3, False, True)]), num_envs=1, seed=0, first_row=5)
    for action in (0, 1, 0, 0, 2):
        vector.step(np.array([action]))
    first, second = vector.pop_episodes()
    assert first == envs.EpisodeStats(3.1, 2, True, row=5, episode=0, info={"laps": 7.0})
    assert (second.length, second.success, second.episode) == (3, False, 1)
    assert second.return_ == pytest.approx(6.2)
    assert vector.pop_episodes() == []


def test_success_is_none_where_the_environment_reports_none() -> None:
    vector = envs.EnvVector(lambda: envs.make("CartPole-v1"), num_envs=1, seed=0)
    while not (episodes := vector.pop_episodes()):
        vector.step(np.array([0]))
    assert episodes[0].success is None


def test_entries_are_never_written_again() -> None:
    vector = envs.EnvVector(lambda: Scripted([(2, True, False)]), num_envs=2, seed=0)
    kept, copies = [], []
    for _ in range(5):
        kept.append(entry_arrays(vector.entry))
        copies.append([array.copy() for array in kept[-1]])
        vector.step(np.array([1, 2]))
    for left, right in zip(kept, copies, strict=True):
        assert_same(left, right)


@pytest.mark.parametrize("observation", OBSERVATIONS, ids=str)
@pytest.mark.parametrize("action", ACTIONS, ids=str)
def test_observations_nest_as_their_space_and_count_from_zero(observation: Any, action: Any) -> None:
    vector = envs.EnvVector(lambda: Drifting(observation, action), num_envs=3, seed=1)
    twin = Drifting(observation, action)
    rng = np.random.default_rng(0)
    expected = [twin.reset(seed=episode_seed(1, i, 0, False))[0] for i in range(3)]
    for i in range(3):
        for leaf, array in zip(leaves(observation), arrays(vector.entry.observation), strict=True):
            value = expected[i]
            for key in leaf.path:
                value = value[key]
            if isinstance(value, str):
                value = hashed_words(value, 64)
            np.testing.assert_array_equal(array[i], value if leaf.start is None else value - leaf.start)
            assert array.dtype == leaf.dtype
    for _ in range(20):
        actions = sample_actions(vector, rng)
        vector.step(actions)
        going = ~vector.entry.reset
        ran = np.clip(actions, action.low, action.high) if isinstance(action, spaces.Box) else actions
        if isinstance(action, spaces.Dict):
            ran[:, 1:4] = ran[:, 1:4].clip(BOX.low, BOX.high)
        np.testing.assert_array_equal(vector.entry.last_action[going], ran[going])
        assert not vector.entry.last_action[~going].any()


class Recording(Drifting):
    """Keeps the actions it is given."""

    def step(self, action: Any) -> Any:
        self.got = action
        return super().step(action)


def test_actions_are_clipped_and_shifted_and_the_last_action_is_the_one_that_ran() -> None:
    made: list[Recording] = []

    def vector(action_space: spaces.Space[Any]) -> envs.EnvVector:
        made.append(Recording(BOX, action_space))
        made[-1].end_probability = 0.0
        return envs.EnvVector(lambda: made[-1], num_envs=1, seed=0)

    box = vector(spaces.Box(-1.0, 0.5, (2,), np.float32))
    box.step(np.array([[3.0, -0.25]], np.float32))
    np.testing.assert_array_equal(made[-1].got, np.array([0.5, -0.25], np.float32))
    np.testing.assert_array_equal(box.entry.last_action, [[0.5, -0.25]])
    number = vector(spaces.Box(0.1, 0.7, (), np.float64))
    number.step(np.array([3.0], np.float32))
    assert made[-1].got.shape == ()
    assert made[-1].got == number.entry.last_action[0]
    assert made[-1].got in number.action_space
    wide = vector(spaces.Box(-np.finfo(np.float64).max, np.finfo(np.float64).max, (1,), np.float64))
    wide.step(np.array([[3.0]], np.float32))
    np.testing.assert_array_equal(made[-1].got, [3.0])
    bits = vector(spaces.MultiBinary((2, 2)))
    bits.step(np.array([[[0, 1], [1, 1]]]))
    assert made[-1].got in bits.action_space
    table = vector(spaces.MultiDiscrete([[3, 2], [4, 2]], start=[[1, 0], [0, 0]]))
    table.step(np.array([[[2, 0], [3, 1]]]))
    np.testing.assert_array_equal(made[-1].got, [[3, 0], [3, 1]])
    assert made[-1].got in table.action_space
    nest = vector(ACTIONS[-1])
    nest.step(np.array([[2, 3.0, -0.25, 0.5, 1, 0, 0, 1, 1, 0]]))
    assert made[-1].got in nest.action_space
    assert type(made[-1].got["act"]) is int
    assert made[-1].got["act"] == 6
    np.testing.assert_array_equal(made[-1].got["arm"][0], np.array([1.0, -0.25, 0.5], np.float32))
    np.testing.assert_array_equal(made[-1].got["arm"][1], [[1, 0, 0], [1, 1, 0]])
    np.testing.assert_array_equal(nest.entry.last_action, [[2, 1.0, -0.25, 0.5, 1, 0, 0, 1, 1, 0]])
    unbounded = vector(spaces.Box(-np.inf, np.inf, (2,), np.float32))
    unbounded.step(np.array([[300.0, -0.25]], np.float32))
    np.testing.assert_array_equal(made[-1].got, np.array([300.0, -0.25], np.float32))
    discrete = vector(spaces.Discrete(3, start=-1))
    discrete.step(np.array([0]))
    assert type(made[-1].got) is int
    assert made[-1].got == -1


@given(
    observation=st.sampled_from(OBSERVATIONS),
    action=st.sampled_from(ACTIONS),
    before=st.integers(0, 40),
    num_envs=st.integers(1, 3),
    evaluation=st.booleans(),
)
@settings(max_examples=30, deadline=None)
def test_load_goes_on_exactly(observation: Any, action: Any, before: int, num_envs: int, evaluation: bool) -> None:
    def make_vector() -> envs.EnvVector:
        return envs.EnvVector(lambda: Drifting(observation, action), num_envs, 7, 2, evaluation)

    vector, rng = make_vector(), np.random.default_rng(before)
    for _ in range(before):
        vector.step(sample_actions(vector, rng))
    file = io.BytesIO()
    torch.save(vector.state(), file)
    file.seek(0)
    other = make_vector()
    for _ in range(before % 5):
        other.step(sample_actions(vector, np.random.default_rng(0)))
    assert other.load(torch.load(file, weights_only=True)) == []
    assert_same(entry_arrays(vector.entry), entry_arrays(other.entry))
    for _ in range(30):
        actions = sample_actions(vector, rng)
        left, right = vector.step(actions), other.step(actions)
        for name in ("reward", "terminated", "truncated", "valid"):
            np.testing.assert_array_equal(getattr(left, name), getattr(right, name))
        assert_same(entry_arrays(vector.entry), entry_arrays(other.entry))
    assert vector.pop_episodes() == other.pop_episodes()


def test_a_saved_state_does_not_change_as_the_vector_goes_on() -> None:
    vector = envs.EnvVector(lambda: envs.make("CartPole-v1"), num_envs=2, seed=0)
    vector.step(np.array([0, 1]))
    entry, state = vector.entry, vector.state()
    for _ in range(50):
        vector.step(np.array([1, 0]))
    assert vector.load(state) == []
    assert_same(entry_arrays(entry), entry_arrays(vector.entry))


class Unrepeatable(Drifting):
    """Its observations do not follow from the seed."""

    made = 0

    def __init__(self) -> None:
        super().__init__(BOX, spaces.Discrete(3), limit=1000)
        Unrepeatable.made += 1
        self.offset = Unrepeatable.made / 1e3

    def observation(self) -> Any:
        return np.full(3, self.offset, np.float32)


def test_rows_that_do_not_replay_start_a_new_episode() -> None:
    def make_vector() -> envs.EnvVector:
        made = iter([Drifting(BOX, spaces.Discrete(3)), Unrepeatable()])
        return envs.EnvVector(lambda: next(made), num_envs=2, seed=0)

    vector, other = make_vector(), make_vector()
    vector.step(np.array([1, 1]))
    episode = vector.state()["rows"][1]["episode"]
    assert other.load(vector.state()) == [1]
    assert other.entry.reset.tolist() == [vector.entry.reset[0], True]
    assert other.entry.last_action.tolist() == [vector.entry.last_action[0], 0]
    assert other.state()["rows"][1] | {"actions": None} == {
        "episode": episode + 1,
        "length": 0,
        "return": 0.0,
        "bootstrap": False,
        "faults": 0,
        "actions": None,
    }
    other.step(np.array([0, 0]))


def test_an_episode_too_long_to_replay_starts_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("envs.vector.REPLAY_LIMIT", 20)
    vector = envs.EnvVector(lambda: Scripted([(10**9, True, False)]), num_envs=1, seed=0)
    action = np.array([1])
    for _ in range(21):
        vector.step(action)
    state = vector.state()
    assert len(state["rows"][0]["actions"]) == 20
    assert vector.load(state) == [0]
    assert vector.entry.reset[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "seed"),
        ({"first_row": 1}, "first_row"),
        ({"evaluation": True}, "evaluation"),
        ({"num_envs": 1}, "number"),
    ],
)
def test_a_state_of_another_vector_is_refused(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"num_envs": 2, "seed": 0}
    state = envs.EnvVector(lambda: envs.make("CartPole-v1"), **arguments).state()
    other = envs.EnvVector(lambda: envs.make("CartPole-v1"), **(arguments | change))
    with pytest.raises(ValueError, match=message):
        other.load(state)


@given(seed=st.integers(0, 2**31 - 1), row=st.integers(0, 10_000), episode=st.integers(0, 10**6))
def test_training_seeds_are_even_and_evaluation_seeds_odd(seed: int, row: int, episode: int) -> None:
    training, evaluation = (episode_seed(seed, row, episode, flag) for flag in (False, True))
    assert training % 2 == 0
    assert evaluation % 2 == 1
    assert 0 <= training < 2**31
    assert 0 <= evaluation < 2**31


def test_rows_and_episodes_have_different_seeds() -> None:
    seeds = {episode_seed(s, row, episode, False) for s in range(4) for row in range(16) for episode in range(16)}
    assert len(seeds) == 4 * 16 * 16


def test_rows_are_the_same_however_they_are_spread_over_actors() -> None:
    def observations(num_envs: int, first_row: int) -> Any:
        return envs.EnvVector(lambda: envs.make("CartPole-v1"), num_envs, 3, first_row).entry.observation["observation"]

    np.testing.assert_array_equal(observations(4, 0), np.concatenate([observations(2, 0), observations(2, 2)]))
