"""Acting for many actors in one process: they hold environments alone and send their entries.

A message costs about a millisecond whatever it carries, so an actor sends one a step for its whole vector. Weights may
change between two steps of an unroll; the log-probabilities are those of the weights that acted, and V-trace corrects
for them. The unroll is as old as the weights of its first step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

from agents.actor import Acting, Weights, acting_seed, overwrite_weights
from agents.config import ExperimentConfig
from agents.policy import make_policy
from envs import Entry


@dataclass(frozen=True)
class Reply:
    """The answer to an actor for the entries of its B rows."""

    action: np.ndarray
    """(B, ...)"""
    log_probs: np.ndarray
    """(B,)"""
    core_state: dict[str, np.ndarray] | None
    """Before this step, at the first step of an unroll."""
    version: int


class InferenceServer:
    """The policy, and for each actor its memory and random numbers."""

    def __init__(
        self,
        config: ExperimentConfig,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        weights: Weights,
        version: int,
    ) -> None:
        self.config = config
        self.policy = make_policy(config, observation_space, action_space).eval()
        self.acting: dict[int, Acting] = {}
        self.incarnations: dict[int, int] = {}
        self.set_weights(weights, version)

    def set_weights(self, weights: Weights, version: int) -> None:
        """Act with these from the next entry on."""
        overwrite_weights(self.policy, weights)
        self.version = version
        for acting in self.acting.values():
            acting.stream.refresh()
            acting.version = version

    def act(self, actor: int, incarnation: int, entry: Entry, begins: bool) -> Reply:
        """One step of an actor; `begins` at the first of an unroll. A new incarnation starts with an empty memory.

        Raises RuntimeError on an incarnation older than the last.
        """
        known = self.incarnations.get(actor, -1)
        if incarnation < known:
            raise RuntimeError(f"actor {actor}: incarnation {incarnation} has been replaced by {known}")
        if incarnation > known:
            seed = acting_seed(self.config, actor, incarnation)
            self.acting[actor] = Acting(self.policy, self.config.agent.envs_per_actor, seed)
            self.acting[actor].version = self.version
            self.incarnations[actor] = incarnation
        acting = self.acting[actor]
        if begins:
            acting.begin({}, self.version)
        action, log_probs = acting.act(entry)
        return Reply(action, log_probs, acting.core_state if begins else None, acting.version)


class RemoteActing:
    """An actor's end of an `InferenceServer` on Ray."""

    version = -1
    core_state: dict[str, np.ndarray]

    def __init__(self, server: Any, actor: int, incarnation: int) -> None:
        self.server, self.actor, self.incarnation = server, actor, incarnation
        self.begins = True

    def begin(self, weights: Weights, version: int) -> None:
        """Start an unroll; the weights are the server's."""
        self.begins = True

    def act(self, entry: Entry) -> tuple[np.ndarray, np.ndarray]:
        """Actions (B, ...) and their log-probabilities (B,)."""
        import ray

        reply: Reply = ray.get(self.server.act.remote(self.actor, self.incarnation, entry, self.begins))
        if reply.core_state is not None:
            self.core_state, self.version = reply.core_state, reply.version
        self.begins = False
        return reply.action, reply.log_probs
