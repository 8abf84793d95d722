"""What runs in an actor's process on Ray: environments are built at the first unroll, what they print is dropped."""

from __future__ import annotations

import os
from typing import Any

import gymnasium as gym

import envs
from agents.actor import Actor, Weights
from agents.config import EnvConfig, ExperimentConfig
from agents.inference import RemoteActing
from agents.unroll import Unroll


class RemoteActor:
    """An actor in a process of its own."""

    def __init__(
        self, config: ExperimentConfig, index: int, incarnation: int, past_rows: int, server: Any = None
    ) -> None:
        """`server` is an `InferenceServer` on Ray, or None for an actor with a policy of its own.

        Nothing here can fail: Ray tells of an error in a constructor by its text alone.
        """
        self.config, self.index, self.incarnation, self.past_rows = config, index, incarnation, past_rows
        self.acting = None if server is None else RemoteActing(server, index, incarnation)
        self.actor: Actor | None = None
        drop_output()

    def unroll(self, weights: Weights, version: int) -> Unroll:
        """As `Actor.unroll`."""
        if self.actor is None:
            self.actor = Actor(self.config, self.index, self.incarnation, self.past_rows, self.acting)
        return self.actor.unroll(weights, version)


def env_spaces(config: EnvConfig) -> tuple[gym.Space[Any], gym.Space[Any], list[str]]:
    """The observation and action space of an environment, made in the process that asks and closed again, and what
    the user should know of it. Raises EnvError where no agent can use its spaces."""
    env = envs.make(config.id, config.kwargs)
    try:
        envs.check_spaces(env)
        return env.observation_space, env.action_space, envs.advice(env)
    finally:
        env.close()  # type: ignore[no-untyped-call]


def drop_output() -> None:
    """Send this process's standard output nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
