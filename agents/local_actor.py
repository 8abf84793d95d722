"""One actor in this process: the same code without Ray, in a fixed order, so that runs repeat bitwise."""

from __future__ import annotations

import logging
from typing import Any

import gymnasium as gym

from agents.actor import Actor, Weights
from agents.actor_pool import COUNTS
from agents.config import ExperimentConfig
from agents.unroll import Unroll

logger = logging.getLogger(__name__)


class LocalActor:
    """A source of unrolls that makes each when it is asked for."""

    def __init__(self, config: ExperimentConfig) -> None:
        self.env_id = config.env.id
        self.actor = Actor(config, index=0)
        self.weights: Weights = {}
        self.version = 0

    def spaces(self) -> tuple[gym.Space[Any], gym.Space[Any]]:
        """Observation and action space; logs what the user should know of the environment."""
        for sentence in self.actor.envs.advice():
            logger.warning("environment %r: %s", self.env_id, sentence)
        return self.actor.envs.observation_space, self.actor.envs.action_space

    def require_room(self, unroll_bytes: int, weights_bytes: int) -> None:
        """Nothing is in flight here."""

    def publish(self, weights: Weights, version: int) -> None:
        """Make these the weights of every unroll from now on."""
        self.weights, self.version = weights, version

    def next_unroll(self) -> Unroll:
        """Act out the next unroll."""
        return self.actor.unroll(self.weights, self.version)

    def metrics(self) -> dict[str, int]:
        """The counts of an `ActorPool`, none of which can happen here."""
        return dict.fromkeys(COUNTS, 0)

    def state(self) -> dict[str, Any]:
        """The state that an exact resume needs."""
        return self.actor.state()

    def load(self, state: dict[str, Any]) -> list[str]:
        """Continue from `state()`; returns warnings."""
        return self.actor.load(state)

    def close(self) -> None:
        """Close the environments."""
        self.actor.close()
