"""One actor in this process: the same code without Ray, in a fixed order, so that runs repeat bitwise."""

from __future__ import annotations

import logging
from typing import Any

import gymnasium as gym

from agents.actor import Actor, Weights
from agents.actor_pool import COUNTS
from agents.actor_seeds import ActorSeeds
from agents.config import ExperimentConfig
from agents.unroll import Unroll
from training.restoring import count_in

logger = logging.getLogger(__name__)


class LocalActor:
    """A source of unrolls that makes each when it is asked for."""

    def __init__(self, config: ExperimentConfig) -> None:
        self.config = config
        self.seeds = ActorSeeds(config)
        self.actor = Actor(config, index=0)
        self.weights: Weights = {}
        self.version = 0
        self.counts = dict.fromkeys(COUNTS, 0)

    def spaces(self) -> tuple[gym.Space[Any], gym.Space[Any]]:
        """Observation and action space; logs what the user should know of the environment."""
        for sentence in self.actor.envs.advice():
            logger.warning("environment %r: %s", self.config.env.id, sentence)
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
        """The counts of an `ActorPool`, which can only have grown before this source took over."""
        return dict(self.counts)

    def state(self) -> dict[str, Any]:
        """The state that an exact resume needs."""
        seeds = self.seeds.state([self.actor.incarnation])
        return self.actor.state() | {"seeds": seeds, "counts": dict(self.counts)}

    def load(self, state: dict[str, Any]) -> list[str]:
        """Continue from `state()`, or with new episodes from that of another source; returns warnings."""
        self.counts = {name: count_in(state["counts"], name) for name in COUNTS}
        is_exact = "envs" in state and self.seeds.fits(state["seeds"])
        (last,) = self.seeds.load(state["seeds"])
        self.actor.close()  # first: some environments allow one instance
        self.actor = Actor(self.config, 0, last if is_exact else last + 1, self.seeds.past_rows)
        if is_exact:
            return self.actor.load(state)
        return ["agent.num_actors or agent.envs_per_actor was another before: new episodes begin, with an empty memory"]

    def close(self) -> None:
        """Close the environments."""
        self.actor.close()
