"""The two tasks of the RL benchmarks as plain Gymnasium environments, importable without this project by its peers."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

TASKS = ("cartpole", "minigrid")


class HiddenVelocities(gymnasium.ObservationWrapper):
    """CartPole's cart position and pole angle, (2,) float32."""

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        full = env.observation_space
        self.observation_space = gymnasium.spaces.Box(full.low[[0, 2]], full.high[[0, 2]], dtype=np.float32)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        return observation[[0, 2]]


class FlatView(gymnasium.ObservationWrapper):
    """MiniGrid's symbolic view of 7 x 7 x 3 as one vector, (147,) float32, tenths."""

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        self.observation_space = gymnasium.spaces.Box(0.0, 26.0, (147,), np.float32)

    def observation(self, observation: dict[str, Any]) -> np.ndarray:
        return observation["image"].reshape(-1).astype(np.float32) / 10


def make(task: str) -> gymnasium.Env:
    """One of `TASKS`."""
    if task == "cartpole":
        return HiddenVelocities(gymnasium.make("CartPole-v1", disable_env_checker=True))
    import minigrid  # noqa: F401 - its import registers the id

    return FlatView(gymnasium.make("MiniGrid-MemoryS7-v0", disable_env_checker=True))


for name in TASKS:
    if f"{name}-v0" not in gymnasium.registry:
        gymnasium.register(f"{name}-v0", entry_point="throughput_envs:make", kwargs={"task": name})
