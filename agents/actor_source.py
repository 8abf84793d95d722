"""Where the learner's unrolls come from: a pool of actor processes on Ray, or one actor in this process."""

from __future__ import annotations

from typing import Any, Protocol

import gymnasium as gym

from agents.actor import Weights
from agents.actor_pool import ActorPool
from agents.config import ExperimentConfig
from agents.local_actor import LocalActor
from agents.unroll import Unroll


class ActorSource(Protocol):
    """A source of unrolls by recent weights."""

    def spaces(self) -> tuple[gym.Space[Any], gym.Space[Any]]:
        """Observation and action space of the environments."""

    def require_room(self, unroll_bytes: int, weights_bytes: int) -> None:
        """Raise TrainingError if unrolls and weights of this size cannot be moved."""

    def publish(self, weights: Weights, version: int) -> None:
        """Make these the weights of every unroll that is begun from now on."""

    def next_unroll(self) -> Unroll:
        """The next finished unroll; waits for one."""

    def metrics(self) -> dict[str, int]:
        """Counts since the run began, by TensorBoard tag."""

    def state(self) -> dict[str, Any]:
        """The state that a resume needs, from which any other source continues too."""

    def load(self, state: dict[str, Any]) -> list[str]:
        """Continue from `state()`; returns warnings."""

    def close(self) -> None:
        """Stop the actors."""


def make_actors(config: ExperimentConfig, address: str | None = None) -> ActorSource:
    """The source an experiment asks for; `address` is that of a Ray cluster, None keeps to this machine."""
    return ActorPool(config, address) if config.agent.num_actors else LocalActor(config)
