"""The one-hot view of MiniGrid against the symbolic view it is made of."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

import envs

pytest.importorskip("minigrid")


def test_planes_say_what_the_symbolic_view_says() -> None:
    env = envs.make("MiniGrid-MemoryS7-v0")
    assert env.observation_space == spaces.Box(0, 1, (7, 7, 20), np.uint8)
    observation, _ = env.reset(seed=3)
    rng = np.random.default_rng(0)
    for _ in range(50):
        assert observation in env.observation_space
        view = env.unwrapped.gen_obs()["image"]  # type: ignore[attr-defined]
        parts = np.split(observation, [11, 17], axis=-1)
        for channel, part in enumerate(parts):
            assert (part.sum(axis=-1) == 1).all()
            np.testing.assert_array_equal(part.argmax(axis=-1), view[..., channel])
        observation, _, terminated, truncated, _ = env.step(rng.integers(7))
        if terminated or truncated:
            observation, _ = env.reset(seed=4)


def outcomes(episodes: int) -> list[tuple[Any, ...]]:
    """(reward, terminated, info) at the end of episodes of random play."""
    env, rng, found = envs.make("MiniGrid-MemoryS7-v0"), np.random.default_rng(0), []
    for seed in range(episodes):
        env.reset(seed=seed)
        over = False
        while not over:
            _, reward, terminated, truncated, info = env.step(rng.integers(3))
            over = terminated or truncated
            assert over or "success" not in info
        found.append((reward, terminated, info["success"]))
    return found


def test_success_is_the_right_end_and_not_the_wrong_one() -> None:
    ends = outcomes(40)
    assert {success for _, _, success in ends} == {True, False}
    for reward, terminated, success in ends:
        assert success == (terminated and reward > 0)


def test_minigrid_steps_in_a_vector_and_restarts_exactly() -> None:
    def make_vector() -> envs.EnvVector:
        return envs.EnvVector(lambda: envs.make("MiniGrid-MemoryS7-v0"), num_envs=2, seed=0)

    vector, other, rng = make_vector(), make_vector(), np.random.default_rng(0)
    for _ in range(40):
        vector.step(rng.integers(0, 7, 2))
    assert other.load(vector.state()) == []
    for _ in range(20):
        actions = rng.integers(0, 7, 2)
        vector.step(actions)
        other.step(actions)
        np.testing.assert_array_equal(*(v.entry.observation["observation"] for v in (vector, other)))


def test_an_unknown_minigrid_id_suggests_one() -> None:
    with pytest.raises(envs.EnvError, match="did you mean MiniGrid-MemoryS7-v0"):
        envs.make("MiniGrid-MemorieS7-v0")
