"""CartPole without its velocities, which have to be remembered from past positions."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from numpy.typing import NDArray

from envs.errors import EnvError

SEEN = [0, 2]
"""Of the cart's position and velocity and the pole's angle and angular velocity."""


class MaskedCartPole(CartPoleEnv):
    """Gymnasium's CartPole of which only positions are seen.

    Observation (2,) float32: the cart's position and the pole's angle. Actions, rewards and ends are CartPole's: +1 a
    step until the pole falls or the cart leaves; the time limit of `max_steps` truncates, so `max_steps` is the best
    return.
    """

    def __init__(self, max_steps: int = 500, render_mode: str | None = None) -> None:
        if max_steps < 1:
            raise EnvError(f"MaskedCartPole: max_steps is {max_steps}, expected at least 1")
        super().__init__(render_mode=render_mode)
        self.max_steps = max_steps
        full = self.observation_space
        assert isinstance(full, spaces.Box)
        self.observation_space = spaces.Box(full.low[SEEN], full.high[SEEN], dtype=np.float32)
        self._steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        observation, info = super().reset(seed=seed, options=options)
        self._steps = 0
        return observation[SEEN], info

    def step(  # type: ignore[override]
        self, action: int
    ) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, _, info = super().step(action)  # type: ignore[no-untyped-call]
        self._steps += 1
        return observation[SEEN], float(reward), terminated, not terminated and self._steps >= self.max_steps, info
