"""Pictures of grid worlds, drawn cell by cell."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

CELL = 56
"""Pixels along a cell."""

Picture = NDArray[np.uint8]
Colour = tuple[int, int, int]

DARK, LIGHT, AGENT = (40, 44, 52), (236, 236, 232), (30, 30, 30)
TINTS: dict[str, Colour] = {
    "red": (214, 52, 52),
    "green": (46, 158, 78),
    "blue": (45, 105, 210),
    "yellow": (232, 190, 28),
    "purple": (146, 72, 190),
    "cyan": (32, 178, 190),
}

_AXIS = np.linspace(-1.0, 1.0, CELL)
_X, _Y = np.abs(_AXIS)[None, :], _AXIS[:, None]
_RADIUS = np.hypot(_X, _Y)
SHAPES: dict[str, NDArray[np.bool_]] = {
    "disc": _RADIUS < 0.7,
    "square": np.maximum(_X, np.abs(_Y)) < 0.65,
    "triangle": (_Y < 0.65) & (_X < (_Y + 0.75) / 1.8),
    "diamond": _X + np.abs(_Y) < 0.85,
    "cross": (np.minimum(_X, np.abs(_Y)) < 0.22) & (np.maximum(_X, np.abs(_Y)) < 0.75),
    "ring": (_RADIUS < 0.75) & (_RADIUS > 0.4),
}
"""(CELL, CELL) masks."""


def paint(picture: Picture, row: int, column: int, colour: Colour, shape: str | None = None) -> None:
    """Fill a cell of `picture` with a colour, or draw a shape of that colour over what the cell shows."""
    cell = picture[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL]
    cell[slice(None) if shape is None else SHAPES[shape]] = colour


def blank(rows: int, columns: int, colour: Colour = DARK) -> Picture:
    """A picture (rows * CELL, columns * CELL, 3) of one colour."""
    return np.full((rows * CELL, columns * CELL, 3), colour, np.uint8)
