"""The one-hot view of MiniGrid against the symbolic view it is made of."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

import envs

pytest.importorskip("minigrid")

from minigrid.core.world_object import Door, Key
from minigrid.minigrid_env import MiniGridEnv

from envs.minigrid_view import symbolic_view
from envs.text import hashed_words


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


@pytest.mark.parametrize("size", [3, 7, 9])
@pytest.mark.parametrize(
    "env_id",
    [
        "MiniGrid-MemoryS7-v0",
        "MiniGrid-MultiRoom-N4-S5-v1",
        "MiniGrid-KeyCorridorS3R2-v0",
        "MiniGrid-Dynamic-Obstacles-6x6-v0",
        "MiniGrid-LavaCrossingS9N2-v0",
        "BabyAI-UnlockPickup-v0",
    ],
)
def test_the_fast_view_is_that_of_minigrid(env_id: str, size: int) -> None:
    env = gymnasium.make(env_id, agent_view_size=size, disable_env_checker=True).unwrapped
    assert isinstance(env, MiniGridEnv)
    rng = np.random.default_rng(0)
    carried = opened = False
    for seed in range(6):
        env.reset(seed=seed)
        for _ in range(60):
            env.see_through_walls = bool(rng.random() < 0.1)
            if rng.random() < 0.1:
                env.carrying = Key("red")
            if rng.random() < 0.1:
                for cell in env.grid.grid:
                    if isinstance(cell, Door):
                        cell.is_open = bool(rng.integers(2))
                        opened = opened or cell.is_open
            theirs, ours = env.gen_obs(), symbolic_view(env)
            np.testing.assert_array_equal(ours.pop("image"), theirs.pop("image"))
            assert ours == theirs
            carried = carried or env.carrying is not None
            _, _, terminated, truncated, _ = env.step(int(rng.integers(env.action_space.n)))
            if terminated or truncated:
                break
    assert carried
    assert opened or "Memory" in env_id or "Dynamic" in env_id or "Lava" in env_id


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


@pytest.mark.parametrize("env_id", ["BabyAI-GoToRedBall-v0", "BabyAI-GoToLocal-v0", "MiniGrid-Fetch-5x5-N2-v0"])
def test_a_mission_that_tells_the_task_is_observed(env_id: str) -> None:
    vector = envs.EnvVector(lambda: envs.make(env_id), num_envs=2, seed=0)
    words = vector.entry.observation["observation['mission']"]
    missions = [env.unwrapped.mission for env in vector._envs]  # type: ignore[attr-defined]
    np.testing.assert_array_equal(words, [hashed_words(mission, 64) for mission in missions])
    assert vector.entry.observation["observation['image']"].shape == (2, 7, 7, 20)
    for _ in range(5):
        vector.step(np.array([0, 2]))
    vector.close()
