"""What a vector of environments shows: the entry to act on, the transition of a step, a finished episode."""

from __future__ import annotations

from dataclasses import dataclass, field

from envs.spaces import Array


@dataclass(slots=True)
class Entry:
    """What B rows act on next."""

    observation: dict[str, Array]
    """(B, *shape) for each leaf of the observation space, by `envs.leaves(space)[i].name`."""
    reset: Array
    """(B,) bool, the observation is the first of its episode."""
    last_action: Array
    """(B, *action shape), as it ran: clipped to the bounds of a Box; zeros at a reset."""
    last_reward: Array
    """(B,) float32; zero at a reset."""


@dataclass(slots=True)
class Transition:
    """What one step of B rows brought."""

    reward: Array
    """(B,) float32."""
    terminated: Array
    """(B,) bool."""
    truncated: Array
    """(B,) bool."""
    valid: Array
    """(B,) bool, False where the row was only reset, after a bootstrap entry."""


@dataclass(frozen=True, slots=True)
class EpisodeStats:
    """A finished episode."""

    return_: float
    """Sum of the raw rewards."""
    length: int
    success: bool | None
    """What the last info says under "success" or "is_success"; None if it has neither."""
    row: int
    """Counted over all actors."""
    episode: int
    """Index within the row."""
    info: dict[str, float] = field(default_factory=dict)
    """The other finite numbers of the last info."""


@dataclass(frozen=True, slots=True)
class Fault:
    """An environment that broke its contract, or raised."""

    row: int
    """Counted over all actors."""
    message: str
    traceback: str
    retired: bool
    """Whether the row plays no more."""
