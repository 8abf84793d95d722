"""Whether a saved state of a vector of environments is that of another vector."""

from __future__ import annotations

from typing import Any


def check_same(saved: dict[str, Any], own: dict[str, Any]) -> None:
    """Raise ValueError unless two states are of vectors made with the same arguments and spaces."""
    theirs, mine = _features(saved), _features(own)
    for name, expected in mine.items():
        if theirs[name] != expected:
            raise ValueError(f"saved environments: {name} is {theirs[name]}, expected {expected}")


def _features(state: dict[str, Any]) -> dict[str, Any]:
    """What must be the same."""
    return {
        "seed": state["seed"],
        "first_row": state["first_row"],
        "evaluation": state["evaluation"],
        "number of environments": len(state["rows"]),
        "observation shapes": [(tuple(t.shape), str(t.numpy().dtype)) for t in state["observation"]],
        "action shape": tuple(state["last_action"].shape),
    }
