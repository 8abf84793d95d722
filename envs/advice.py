"""What a user should know of an environment that works, but not as it seems to."""

from __future__ import annotations

from typing import Any

import gymnasium
from gymnasium import spaces
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
        if _mission(env.env) and not _mission(env):
            found.append(
                "the observation's text, the mission, is dropped: an agent that must read it cannot learn the task"
            )
        env = env.env
    return found


def _mission(env: gymnasium.Env[Any, Any]) -> bool:
    """Whether a text that differs between episodes is observed."""
    space = env.observation_space
    mission = space.spaces.get("mission") if isinstance(space, spaces.Dict) else None
    if mission is None:
        return False
    # Most of MiniGrid's tasks have one mission for all episodes; those of BabyAI never do.
    return getattr(mission, "ordered_placeholders", None) is not None or "babyai" in type(env.unwrapped).__module__
