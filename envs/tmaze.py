"""The T-maze of Bakker, "Reinforcement Learning with Long Short-Term Memory" (NIPS 2001)."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from envs.errors import EnvError
from envs.pictures import AGENT, LIGHT, TINTS, Picture, blank, paint

FORWARD, UP, DOWN = 0, 1, 2
WALL_REWARD = -0.1


class TMaze(gymnasium.Env[NDArray[np.float32], int]):
    """A corridor whose first observation says which arm of the junction at its end is the right one.

    Observation (4,) float32: cue up, cue down (both only in the first observation of an episode), in the
    corridor, at the junction; the position along the corridor is never shown. Actions: 0 forward, 1 up, 2
    down. The right arm brings +1, the wrong one -1, and both end the episode; a move into a wall costs 0.1, as
    standing still does in the paper. The time limit truncates. Without memory half of the choices are right.
    The last info holds "success".

    length: corridor cells between the start and the junction. max_steps: the time limit; by default 4 *
    length + 20, in which a uniformly random policy almost always chooses an arm. Raises EnvError if either is
    below 1.

    >>> env = TMaze(length=1)
    >>> observation, _ = env.reset(seed=0)
    >>> observation  # the cue: down
    array([0., 1., 1., 0.], dtype=float32)
    >>> env.step(FORWARD)[0], env.step(FORWARD)[0]  # the corridor, then the junction
    (array([0., 0., 1., 0.], dtype=float32), array([0., 0., 0., 1.], dtype=float32))
    >>> _, reward, terminated, _, info = env.step(DOWN)
    >>> reward, terminated, info
    (1.0, True, {'success': True})
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 8}  # noqa: RUF012

    def __init__(self, length: int = 10, max_steps: int | None = None, render_mode: str | None = None) -> None:
        self.max_steps = 4 * length + 20 if max_steps is None else max_steps
        for name, value in (("length", length), ("max_steps", self.max_steps)):
            if value < 1:
                raise EnvError(f"TMaze: {name} is {value}, expected at least 1")
        self.length = length
        self.junction = length + 1
        self.render_mode = render_mode
        self.observation_space = spaces.Box(0.0, 1.0, (4,), np.float32)
        self.action_space = spaces.Discrete(3)
        self._arm = UP
        self._position = 0
        self._steps = 0
        self._chosen: int | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        self._arm = UP if self.np_random.integers(2) == 0 else DOWN
        self._position = 0
        self._steps = 0
        self._chosen = None
        cue_up = self._arm == UP
        return np.array([cue_up, not cue_up, 1, 0], np.float32), {}

    def step(self, action: int) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        self._steps += 1
        at_junction = self._position == self.junction
        reward, terminated = 0.0, False
        if at_junction and action != FORWARD:
            self._chosen = int(action)
            terminated = True
            reward = 1.0 if action == self._arm else -1.0
        elif not at_junction and action == FORWARD:
            self._position += 1
            at_junction = self._position == self.junction
        else:
            reward = WALL_REWARD
        truncated = not terminated and self._steps >= self.max_steps
        info = {"success": self._chosen == self._arm} if terminated or truncated else {}
        return np.array([0, 0, not at_junction, at_junction], np.float32), reward, terminated, truncated, info

    def render(self) -> Picture | None:  # type: ignore[override]
        """The maze from above, (height, width, 3): the agent, and at the first step the cue beside it."""
        if self.render_mode != "rgb_array":
            return None
        picture = blank(5, self.length + 4)
        for column in range(1, self.junction + 2):
            paint(picture, 2, column, LIGHT)
        for row in (1, 3):
            paint(picture, row, self.junction + 1, LIGHT)
        if self._steps == 0:
            paint(picture, 1 if self._arm == UP else 3, 1, TINTS["blue"], "diamond")
        arm = {None: 2, UP: 1, DOWN: 3}[self._chosen]
        paint(picture, arm, self._position + 1, AGENT, "disc")
        return picture
