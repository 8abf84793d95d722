"""Our own memory tasks as Gymnasium ids: `gymnasium.make("envs:TMaze-v0")` finds them."""

from __future__ import annotations

import gymnasium

TASKS = {
    "TMaze-v0": "envs.tmaze:TMaze",
    "NonMatchingObject-v0": "envs.non_matching_object:NonMatchingObject",
    "MaskedCartPole-v0": "envs.masked_cartpole:MaskedCartPole",
}
"""Gymnasium id to entry point."""


def register() -> None:
    """Register the tasks that are not registered yet."""
    for name, entry_point in TASKS.items():
        if name not in gymnasium.registry:
            gymnasium.register(name, entry_point=entry_point)


def names() -> list[str]:
    """The ids of our own tasks, as `envs.make` and `gymnasium.make` take them."""
    return [f"envs:{name}" for name in TASKS]
