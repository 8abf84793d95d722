"""Our own memory tasks: Gymnasium's checker, seeds, and what a player with and without memory earns."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

import envs

VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("envs:TMaze-v0", {}),
    ("envs:TMaze-v0", {"length": 1, "max_steps": 3}),
    ("envs:NonMatchingObject-v0", {}),
    ("envs:NonMatchingObject-v0", {"corridor": 0, "new_sample_each_round": True, "rounds": 2}),
    ("envs:MaskedCartPole-v0", {"max_steps": 30}),
]
FORWARD, UP, DOWN = 0, 1, 2


@pytest.mark.parametrize(("env_id", "kwargs"), VARIANTS, ids=str)
def test_gymnasium_finds_nothing_to_complain_about(env_id: str, kwargs: dict[str, Any]) -> None:
    check_env(gymnasium.make(env_id, render_mode="rgb_array", **kwargs).unwrapped)


def test_every_own_task_is_tried_here() -> None:
    assert {env_id for env_id, _ in VARIANTS} == set(envs.names())


def play(env: gymnasium.Env[Any, Any], seed: int) -> list[Any]:
    """Everything seen in one episode of random actions."""
    rng = np.random.default_rng(seed)
    seen: list[Any] = [env.reset(seed=seed)]
    while len(seen) < 2 or not (seen[-1][2] or seen[-1][3]):
        seen.append(env.step(int(rng.integers(env.action_space.n))))  # type: ignore[attr-defined]
    return seen


@pytest.mark.parametrize(("env_id", "kwargs"), VARIANTS, ids=str)
def test_the_seed_decides_the_episode(env_id: str, kwargs: dict[str, Any]) -> None:
    one, other = envs.make(env_id, kwargs), envs.make(env_id, kwargs)
    play(other, seed=99)
    for seed in range(5):
        for left, right in zip(play(one, seed), play(other, seed), strict=True):
            np.testing.assert_array_equal(left[0], right[0])
            assert left[1:] == right[1:]
    firsts = {one.reset(seed=seed)[0].tobytes() for seed in range(40)}
    assert len(firsts) >= 2


@pytest.mark.parametrize(("env_id", "kwargs"), VARIANTS, ids=str)
def test_pictures_can_be_read(env_id: str, kwargs: dict[str, Any]) -> None:
    env = envs.make(env_id, kwargs, render_mode="rgb_array")
    env.reset(seed=0)
    first = env.render()
    later = [(env.step(0), env.render())[1] for _ in range(3)]
    assert first.dtype == np.uint8
    assert min(first.shape[:2]) >= 200
    assert first.shape[2] == 3
    assert any(not np.array_equal(picture, first) for picture in later)


# T-maze


def run_tmaze(env: gymnasium.Env[Any, Any], seed: int, arm: int | None) -> tuple[float, list[Any], dict[str, Any]]:
    """Go forward to the junction and into `arm`, or into the arm of the cue if None."""
    observation, _ = env.reset(seed=seed)
    arm = arm or (UP if observation[0] else DOWN)
    observations, total, over, info = [observation], 0.0, False, {}
    while not over:
        observation, reward, terminated, truncated, info = env.step(arm if observation[3] else FORWARD)
        total, over = total + float(reward), terminated or truncated
        observations.append(observation)
    return total, observations, info


@given(length=st.integers(1, 40), seed=st.integers(0, 10_000))
@settings(deadline=None, max_examples=50)
def test_tmaze_with_memory_earns_one_and_sees_the_cue_once(length: int, seed: int) -> None:
    total, observations, info = run_tmaze(envs.make("envs:TMaze-v0", {"length": length}), seed, arm=None)
    assert total == 1.0
    assert info["success"] is True
    assert len(observations) == length + 3
    assert observations[0][:2].sum() == 1
    assert not np.any(np.stack(observations[1:])[:, :2])
    corridor = {observation.tobytes() for observation in observations[1 : length + 1]}
    assert len(corridor) == 1


def test_tmaze_shows_no_cue_to_one_who_stays_at_the_start() -> None:
    env = envs.make("envs:TMaze-v0", {})
    env.reset(seed=0)
    assert env.step(UP)[0].tolist() == [0, 0, 1, 0]


@pytest.mark.parametrize("arm", [UP, DOWN])
def test_tmaze_without_memory_is_a_coin_toss(arm: int) -> None:
    env = envs.make("envs:TMaze-v0", {"length": 2})
    returns = [run_tmaze(env, seed, arm)[0] for seed in range(1000)]
    assert set(returns) == {1.0, -1.0}
    assert 0.42 < np.mean(np.array(returns) == 1.0) < 0.58


def test_tmaze_walls_cost_and_time_truncates() -> None:
    env = envs.make("envs:TMaze-v0", {"length": 3, "max_steps": 5})
    env.reset(seed=0)
    steps = [env.step(UP) for _ in range(5)]
    assert [step[1] for step in steps] == [-0.1] * 5
    assert [step[2] for step in steps] == [False] * 5
    assert [step[3] for step in steps] == [False] * 4 + [True]
    assert steps[-1][4] == {"success": False}


@pytest.mark.parametrize("length", [1, 10, 50])
def test_tmaze_leaves_time_for_random_play(length: int) -> None:
    env = envs.make("envs:TMaze-v0", {"length": length})
    assert np.mean([play(env, seed)[-1][2] for seed in range(100)]) > 0.9


# Non-matching object

PLANES = {"wall": 0, "glass": 1, "pad": 2, "stand": 3}
NORTH, EAST, WEST = 0, 1, 3


def objects(view: Any) -> dict[tuple[int, int], tuple[int, ...]]:
    """(row, column) in the view to the object there, as its planes."""
    return {
        (int(row), int(column)): tuple(view[row, column, 4:].tolist())
        for row, column in np.argwhere(view[..., 4:].any(axis=-1))
    }


def run_rounds(env: gymnasium.Env[Any, Any], seed: int, choose: Any) -> tuple[list[float], list[Any], dict[str, Any]]:
    """One episode: north to the pad, north along the corridor, then to the stand that `choose(sample, left,
    right)` says.

    Returns the rewards, the views and the last info; uses nothing but the views.
    """
    view, _ = env.reset(seed=seed)
    rewards, views, over, info, direction, sample = [], [view], False, {}, NORTH, None
    while not over:
        if view[..., PLANES["glass"]].any():
            (sample,) = objects(view).values()
            direction = NORTH
        elif direction == NORTH and len(objects(view)) == 2 and view[2, :, PLANES["stand"]].any():
            direction = choose(sample, objects(view)[2, 0], objects(view)[2, 4])
        view, reward, terminated, over, info = env.step(direction)
        assert not terminated
        rewards.append(float(reward))
        views.append(view)
    return rewards, views, info


def other_object(sample: Any, left: Any, right: Any) -> int:
    assert sample in (left, right)
    assert left != right
    return WEST if right == sample else EAST


@given(
    corridor=st.integers(0, 12),
    rounds=st.integers(1, 8),
    new_sample=st.booleans(),
    seed=st.integers(0, 10_000),
)
@settings(deadline=None, max_examples=40)
def test_non_matching_with_memory_earns_the_most(corridor: int, rounds: int, new_sample: bool, seed: int) -> None:
    env = envs.make(
        "envs:NonMatchingObject-v0",
        {"corridor": corridor, "rounds": rounds, "new_sample_each_round": new_sample},
    )
    rewards, views, info = run_rounds(env, seed, other_object)
    assert sum(rewards) == 11 * rounds == env.unwrapped.max_return  # type: ignore[attr-defined]
    assert info == {"rounds": rounds, "accuracy": 1.0, "success": True}
    samples = {object_ for view in views if view[..., 1].any() for object_ in objects(view).values()}
    assert len(samples) == 1 or new_sample


def test_non_matching_is_sixty_six_in_six_rounds_by_default() -> None:
    rewards, _, _ = run_rounds(envs.make("envs:NonMatchingObject-v0", {}), 0, other_object)
    assert sum(rewards) == 66
    assert len(rewards) == 62
    assert [reward for reward in rewards if reward] == [1.0, 10.0] * 6


def test_non_matching_by_chance_is_worth_nothing_a_choice() -> None:
    env, rng = envs.make("envs:NonMatchingObject-v0", {}), np.random.default_rng(0)
    choices, successes, accuracies = [], [], []
    for seed in range(150):
        rewards, _, info = run_rounds(env, seed, lambda *_: int(rng.choice([EAST, WEST])))
        choices += [reward for reward in rewards if abs(reward) == 10]
        successes.append(info["success"])
        accuracies.append(info["accuracy"])
    assert len(choices) == 900
    assert abs(np.mean(choices)) < 1.5
    assert np.mean(accuracies) == pytest.approx(0.5 + np.mean(choices) / 20)
    assert np.mean(successes) < 0.1


@pytest.mark.parametrize("side", [EAST, WEST])
def test_non_matching_sides_say_nothing(side: int) -> None:
    env = envs.make("envs:NonMatchingObject-v0", {})
    rewards = [reward for seed in range(100) for reward in run_rounds(env, seed, lambda *_: side)[0]]
    assert abs(np.mean([reward for reward in rewards if abs(reward) == 10])) < 1.5


def test_non_matching_hides_the_sample_until_the_choice() -> None:
    corridor = 9
    env = envs.make("envs:NonMatchingObject-v0", {"corridor": corridor})
    _, views, _ = run_rounds(env, 5, other_object)
    one_round = views[:16]
    assert [len(objects(view)) for view in one_round[:3]] == [1, 1, 1]
    assert not any(objects(view) or view[..., PLANES["glass"]].any() for view in one_round[3:11])


def test_non_matching_draws_every_object_and_both_sides() -> None:
    env = envs.make("envs:NonMatchingObject-v0", {})
    firsts = [objects(env.reset(seed=seed)[0]) for seed in range(600)]
    assert len({object_ for view in firsts for object_ in view.values()}) == 36
    assert {place for view in firsts for place in view} == {(0, 0), (0, 4)}


def test_non_matching_walls_and_glass_stop_the_agent() -> None:
    env = envs.make("envs:NonMatchingObject-v0", {})
    start, _ = env.reset(seed=0)
    for action in (EAST, 2, WEST):
        np.testing.assert_array_equal(env.step(action)[0], start)
    for _ in range(2):
        beside_glass = env.step(NORTH)[0]
    assert beside_glass[2, 1, PLANES["glass"]] == beside_glass[2, 3, PLANES["glass"]] == 1
    np.testing.assert_array_equal(env.step(EAST)[0], beside_glass)


def test_non_matching_without_a_choice_is_no_success() -> None:
    env = envs.make("envs:NonMatchingObject-v0", {})
    env.reset(seed=0)
    for _ in range(62):
        *_, truncated, info = env.step(2)
    assert truncated
    assert info == {"rounds": 0, "accuracy": 0.0, "success": False}


@pytest.mark.parametrize(
    ("env_id", "kwargs", "message"),
    [
        ("envs:TMaze-v0", {"length": 0}, "length is 0"),
        ("envs:TMaze-v0", {"max_steps": 0}, "max_steps is 0"),
        ("envs:NonMatchingObject-v0", {"corridor": -1}, "corridor is -1"),
        ("envs:NonMatchingObject-v0", {"rounds": 0}, "rounds is 0"),
        ("envs:MaskedCartPole-v0", {"max_steps": 0}, "max_steps is 0"),
    ],
    ids=str,
)
def test_impossible_arguments_are_refused(env_id: str, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(envs.EnvError, match=message) as caught:
        envs.make(env_id, kwargs)
    assert env_id in str(caught.value)


# Masked CartPole


def test_masked_cartpole_is_cartpole_without_velocities() -> None:
    masked, full, rng = envs.make("envs:MaskedCartPole-v0"), gymnasium.make("CartPole-v1"), np.random.default_rng(0)
    ends = set()
    for seed in range(20):
        np.testing.assert_array_equal(masked.reset(seed=seed)[0], full.reset(seed=seed)[0][[0, 2]])
        over = False
        while not over:
            action = int(rng.integers(2))
            seen, whole = masked.step(action), full.step(action)
            np.testing.assert_array_equal(seen[0], whole[0][[0, 2]])
            assert seen[1:] == whole[1:]
            over = seen[2] or seen[3]
        ends.add(seen[2:4])
    assert ends == {(True, False)}


def balance(observation: Any) -> int:
    """A controller that sees the velocities."""
    position, velocity, angle, angular_velocity = observation
    return int(0.1 * position + 0.2 * velocity + 2 * angle + angular_velocity > 0)


@pytest.mark.parametrize("max_steps", [500, 20])
def test_masked_cartpole_is_worth_its_time_limit(max_steps: int) -> None:
    env = envs.make("envs:MaskedCartPole-v0", {"max_steps": max_steps})
    env.reset(seed=0)
    rewards, over = [], False
    while not over:
        _, reward, terminated, over, _ = env.step(balance(env.unwrapped.state))  # type: ignore[attr-defined]
        assert not terminated
        rewards.append(float(reward))
    assert sum(rewards) == max_steps
