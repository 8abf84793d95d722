"""What a user should know of an environment that works, but not as it seems to."""

from __future__ import annotations

from typing import Any

import gymnasium
from gymnasium.wrappers import NormalizeObservation, NormalizeReward


def advice(env: gymnasium.Env[Any, Any]) -> list[str]:
    """One sentence for each thing; none for most environments."""
    found = []
    while isinstance(env, gymnasium.Wrapper):
        if isinstance(env, NormalizeObservation):
            found.append(
                "NormalizeObservation keeps statistics in each environment by itself, which no checkpoint holds and no "
                "evaluation has: use agent.normalize_observations=true in its place"
            )
        if isinstance(env, NormalizeReward):
            found.append(
                "NormalizeReward keeps statistics in each environment by itself, and returns are told in its units: "
                "use agent.reward_scale in its place"
            )
        env = env.env
    return found
