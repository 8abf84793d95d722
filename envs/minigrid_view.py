"""MiniGrid's partial view in one pass over its cells.

MiniGrid copies its grid once for the view and once for each quarter turn, cell by cell, which is most of the time of a
step. Here a table tells for each heading which cells the view shows, and rows of cells in sight are sets of bits.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from minigrid.core.constants import OBJECT_TO_IDX
from minigrid.core.world_object import Wall
from minigrid.minigrid_env import MiniGridEnv

UNSEEN, EMPTY = (OBJECT_TO_IDX["unseen"], 0, 0), (OBJECT_TO_IDX["empty"], 0, 0)
OUTSIDE = Wall()


def use_fast_view(env: MiniGridEnv) -> None:
    """Make an environment see by `symbolic_view`, unless it has a way of its own to see."""
    kind = type(env)
    if kind.gen_obs is MiniGridEnv.gen_obs and kind.gen_obs_grid is MiniGridEnv.gen_obs_grid:
        env.gen_obs = functools.partial(symbolic_view, env)  # type: ignore[method-assign]


def symbolic_view(env: MiniGridEnv) -> dict[str, Any]:
    """What `MiniGridEnv.gen_obs` returns: image (width, height, 3) uint8 of type, colour and state, and the rest."""
    size = env.agent_view_size
    cells, width, height = env.grid.grid, env.grid.width, env.grid.height
    column, row = int(env.agent_pos[0]), int(env.agent_pos[1])
    shown = []
    transparent = [(1 << size) - 1] * size
    for place, (right, down) in enumerate(offsets(size, env.agent_dir)):
        x, y = column + right, row + down
        cell = cells[y * width + x] if 0 <= x < width and 0 <= y < height else OUTSIDE
        shown.append(cell)
        if cell is not None and not cell.see_behind():
            transparent[place % size] ^= 1 << place // size

    in_sight = [(1 << size) - 1] * size
    if not env.see_through_walls:
        in_sight = [0] * size
        in_sight[-1] = 1 << size // 2
        for ahead in reversed(range(size)):
            in_sight[ahead], beyond = looked(in_sight[ahead], transparent[ahead], size)
            if ahead:
                in_sight[ahead - 1] |= beyond

    shown[size // 2 * size + size - 1] = env.carrying  # the agent's own cell shows what it carries
    codes: list[int] = []
    for place, cell in enumerate(shown):
        if not in_sight[place % size] >> place // size & 1:
            codes += UNSEEN
        else:
            codes += EMPTY if cell is None else cell.encode()
    image = np.array(codes, np.uint8).reshape(size, size, 3)
    return {"image": image, "direction": env.agent_dir, "mission": env.mission}


@functools.cache
def offsets(size: int, heading: int) -> list[tuple[int, int]]:
    """(right, down) on the map from the agent to each cell of its view, left to right and each column top down.

    The agent stands in the middle of the bottom row and looks up; headings are right, down, left, up.
    """
    ahead_right, ahead_down = ((1, 0), (0, 1), (-1, 0), (0, -1))[heading]
    found = []
    for across in range(-(size // 2), size - size // 2):
        for ahead in reversed(range(size)):
            found.append((ahead * ahead_right - across * ahead_down, ahead * ahead_down + across * ahead_right))
    return found


@functools.cache
def looked(in_sight: int, transparent: int, size: int) -> tuple[int, int]:
    """The cells in sight of a row, as bits, once sight has spread along it, and those of the row beyond.

    It spreads from each transparent cell in sight to its neighbours, to the right and then to the left, and from those
    cells to the ones beyond.
    """
    beyond = 0
    for start, stop, way in ((0, size - 1, 1), (size - 1, 0, -1)):
        for cell in range(start, stop, way):
            if in_sight & transparent & 1 << cell:
                reached = 1 << cell | 1 << cell + way
                in_sight |= reached
                beyond |= reached
    return in_sight, beyond
