"""Choose the object you did not see: a grid after DMLab-30's rooms_select_nonmatching_object.

The original: github.com/google-deepmind/lab, level contributed/dmlab30/rooms_select_nonmatching_object;
DMLab-30 is introduced in Espeholt et al., IMPALA (1802.01561).
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from envs.errors import EnvError
from envs.pictures import AGENT, DARK, LIGHT, SHAPES, TINTS, Colour, Picture, blank, paint

WALL, GLASS, PAD, STAND = range(4)
NUM_SHAPES, NUM_COLOURS = len(SHAPES), len(TINTS)
NUM_OBJECTS = NUM_SHAPES * NUM_COLOURS
NUM_PLANES = 4 + NUM_SHAPES + NUM_COLOURS
REACH = 2
"""Cells the agent sees in each direction."""
MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))
"""(rows, columns) of up, right, down, left."""
PAD_REWARD, OTHER_REWARD, SAMPLE_REWARD = 1.0, 10.0, -10.0
TO_PAD, TO_CHOICE = 3, 3
"""Moves from the start to the pad, and from the entrance of room 2 to a stand if there is no corridor."""

SAMPLE_ROOM = (
    "#########",
    "####P####",
    "##SG.GS##",
    "####.####",
    "####A####",
    "#########",
)
CHOICE_ROOM = (
    "#########",
    "##S...S##",
    "####A####",
    "#########",
)
CORRIDOR = "####.####"

FLOORS: dict[str, Colour] = {"G": (190, 222, 240), "P": (120, 210, 140), "S": (205, 200, 190)}
"""Colours of a picture by the mark of the cell."""

View = NDArray[np.uint8]
Place = tuple[int, int]


class Room:
    """A drawn plan as one-hot planes with a margin of wall, so that a view is a slice.

    plan: rows of equal length of # wall, G glass, P pad, S stand, . floor, A the agent's entrance.
    """

    def __init__(self, plan: tuple[str, ...]) -> None:
        margin = "#" * REACH
        full = (margin + "#" * len(plan[0]) + margin,) * REACH
        self.cells = np.array([list(row) for row in (*full, *(margin + row + margin for row in plan), *full)])
        self.planes = np.zeros((*self.cells.shape, NUM_PLANES), np.uint8)
        for plane, mark in ((WALL, "#"), (GLASS, "G"), (PAD, "P"), (STAND, "S")):
            self.planes[..., plane] = self.cells == mark
        self.entrance = self.places("A")[0]
        self.stands = self.places("S")
        self.floor = {place: str(self.cells[place]) for place in self.places(".APS")}
        """Mark by place, of the cells that can be entered."""

    def places(self, marks: str) -> list[Place]:
        """The (row, column) of every cell with one of the marks, in reading order."""
        return [(int(row), int(column)) for row, column in np.argwhere(np.isin(self.cells, list(marks)))]

    def clear(self) -> None:
        """Empty the stands."""
        for stand in self.stands:
            self.planes[stand][STAND + 1 :] = 0

    def show(self, stand: int, identity: int) -> None:
        """Put object `identity` on an empty stand."""
        shape, colour = divmod(identity, NUM_COLOURS)
        planes = self.planes[self.stands[stand]]
        planes[STAND + 1 + shape] = 1
        planes[STAND + 1 + NUM_SHAPES + colour] = 1

    def view(self, place: Place) -> View:
        """(5, 5, 16), what is around a place."""
        row, column = place
        return self.planes[row - REACH : row + REACH + 1, column - REACH : column + REACH + 1].copy()

    def picture(self, agent: Place) -> Picture:
        """The room from above without its margin."""
        rows, columns = self.cells.shape
        picture = blank(rows - 2 * REACH, columns - 2 * REACH, DARK)
        for row, column in np.argwhere(self.cells != "#"):
            planes = self.planes[row, column]
            at = (row - REACH, column - REACH)
            paint(picture, *at, FLOORS.get(str(self.cells[row, column]), LIGHT))
            if planes[STAND + 1 :].any():
                shape = int(planes[STAND + 1 :].argmax())
                colour = int(planes[STAND + 1 + NUM_SHAPES :].argmax())
                paint(picture, *at, list(TINTS.values())[colour], list(SHAPES)[shape])
        paint(picture, agent[0] - REACH, agent[1] - REACH, AGENT, "disc")
        return picture


class NonMatchingObject(gymnasium.Env[View, int]):
    """Rounds of two rooms: see a sample behind glass, teleport, walk onto the object that is not the sample.

    A round starts in room 1, where the sample stands behind glass on the left or the right. The pad straight
    ahead brings +1 and leads to room 2: a corridor, then two stands with the sample and another object.
    Walking onto the other brings +10, onto the sample -10, and starts the next round. The sides and the other
    object are drawn anew each round, the sample (6 shapes x 6 colours) once an episode. Without memory a
    round is worth +1 on average; with it, +11.

    Observation (5, 5, 16) uint8 of zeros and ones, centred on the agent and seen through walls and glass:
    wall, glass, pad, stand, 6 shapes, 6 colours. Actions: up, right, down, left; into a wall or glass nothing
    happens.

    An episode is over after `max_steps` = `rounds` shortest rounds and 2 steps, 6.2 rounds with the default
    arguments, and `max_return` = 11 * rounds, 66 as in the original. Time alone ends it and the agent sees no
    clock, so the end is a truncation: a learner goes on valuing the rounds that would have followed, which
    keeps the value a function of what the agent has seen. The last info holds "rounds" (finished), "accuracy"
    (the share of them that was right, 0 if there are none) and "success": at least half of `rounds` were
    finished, and all of them right.

    corridor: cells added to the way to the stands of room 2. By default 8 of a round's 10 steps lie between
    the last sight of the sample and the choice, in the original about 23 of 29. new_sample_each_round: draw
    the sample anew each round, so that memory must be overwritten. rounds: the most rounds an episode can
    hold. Raises EnvError if corridor < 0 or rounds < 1.

    Not as in the original: a grid seen from above with four absolute moves, in place of a first-person view;
    36 objects of 6 shapes and 6 colours instead of 12 shapes in 3 variants; fewer steps a round, in the same
    proportion.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 8}  # noqa: RUF012

    def __init__(
        self,
        corridor: int = 4,
        new_sample_each_round: bool = False,
        rounds: int = 6,
        render_mode: str | None = None,
    ) -> None:
        if corridor < 0:
            raise EnvError(f"NonMatchingObject: corridor is {corridor}, expected at least 0")
        if rounds < 1:
            raise EnvError(f"NonMatchingObject: rounds is {rounds}, expected at least 1")
        self.round_length = TO_PAD + TO_CHOICE + corridor
        self.max_steps = rounds * self.round_length + TO_PAD - 1
        self.max_return = rounds * (PAD_REWARD + OTHER_REWARD)
        self.new_sample_each_round = new_sample_each_round
        self.rounds = rounds
        self.render_mode = render_mode
        self.sample_room = Room(SAMPLE_ROOM)
        self.choice_room = Room(CHOICE_ROOM[:2] + (CORRIDOR,) * corridor + CHOICE_ROOM[2:])
        size = 2 * REACH + 1
        self.observation_space = spaces.Box(0, 1, (size, size, NUM_PLANES), np.uint8)
        self.action_space = spaces.Discrete(len(MOVES))
        self._room, self._place = self.sample_room, self.sample_room.entrance
        self._sample = self._other_stand = 0
        self._steps = self._finished = self._correct = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[View, dict[str, Any]]:
        super().reset(seed=seed)
        self._steps = self._finished = self._correct = 0
        self._sample = self._draw(NUM_OBJECTS)
        self._enter_sample_room()
        return self._room.view(self._place), {}

    def step(self, action: int) -> tuple[View, float, bool, bool, dict[str, Any]]:
        rows, columns = MOVES[action]
        place = (self._place[0] + rows, self._place[1] + columns)
        reward = 0.0
        mark = self._room.floor.get(place)
        if mark is not None:
            self._place = place
            if mark == "P":
                reward = PAD_REWARD
                self._enter_choice_room()
            elif mark == "S":
                reward = self._choose(self._room.stands.index(place))
        self._steps += 1
        truncated = self._steps >= self.max_steps
        return self._room.view(self._place), reward, False, truncated, self._report() if truncated else {}

    def render(self) -> Picture | None:  # type: ignore[override]
        """The room the agent is in, from above (height, width, 3), with the agent as a black disc."""
        return self._room.picture(self._place) if self.render_mode == "rgb_array" else None

    def _draw(self, count: int) -> int:
        return int(self.np_random.integers(count))

    def _enter_sample_room(self) -> None:
        self._room, self._place = self.sample_room, self.sample_room.entrance
        self.sample_room.clear()
        self.sample_room.show(self._draw(2), self._sample)

    def _enter_choice_room(self) -> None:
        self._room, self._place = self.choice_room, self.choice_room.entrance
        self._other_stand = self._draw(2)
        other = (self._sample + 1 + self._draw(NUM_OBJECTS - 1)) % NUM_OBJECTS
        self.choice_room.clear()
        self.choice_room.show(self._other_stand, other)
        self.choice_room.show(1 - self._other_stand, self._sample)

    def _choose(self, stand: int) -> float:
        """End the round on a stand; the reward."""
        right = stand == self._other_stand
        self._finished += 1
        self._correct += right
        if self.new_sample_each_round:
            self._sample = self._draw(NUM_OBJECTS)
        self._enter_sample_room()
        return OTHER_REWARD if right else SAMPLE_REWARD

    def _report(self) -> dict[str, Any]:
        """The last info of an episode."""
        enough = 2 * self._finished >= self.rounds
        return {
            "rounds": self._finished,
            "accuracy": self._correct / max(self._finished, 1),
            "success": enough and self._correct == self._finished,
        }
