"""Where the learner's unrolls come from: a pool of actor processes on Ray, or one actor in this process."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import Any, Protocol

from agents.actor import Actor, Weights
from agents.cluster import start_ray
from agents.config import ExperimentConfig
from agents.learner import TrainingError
from agents.unroll import Unroll

START_ALLOWANCE = 120.0
"""Seconds that a new process has to import and build its environments, beyond the deadline of its first unroll."""


class ActorSource(Protocol):
    """A source of unrolls by recent weights."""

    restarts: int

    def publish(self, weights: Weights, version: int) -> None:
        """Make these the weights of every unroll that is begun from now on."""

    def next_unroll(self) -> Unroll:
        """The next finished unroll; waits for one."""

    def state(self) -> dict[str, Any]:
        """What an exact resume needs; empty where there is none."""

    def load(self, state: dict[str, Any]) -> list[str]:
        """Continue from `state()`; returns warnings."""

    def close(self) -> None:
        """Stop the actors."""


class LocalActor:
    """One actor in this process: the same code, in a fixed order, so that runs repeat bitwise."""

    restarts = 0

    def __init__(self, config: ExperimentConfig) -> None:
        self.actor = Actor(config, index=0)
        self.weights: Weights = {}
        self.version = 0

    def publish(self, weights: Weights, version: int) -> None:
        self.weights, self.version = weights, version

    def next_unroll(self) -> Unroll:
        return self.actor.unroll(self.weights, self.version)

    def state(self) -> dict[str, Any]:
        return self.actor.state()

    def load(self, state: dict[str, Any]) -> list[str]:
        return self.actor.load(state)

    def close(self) -> None:
        self.actor.close()


@dataclass
class Request:
    """An unroll asked of an actor."""

    actor: int
    deadline: float
    """On the monotonic clock."""


class ActorPool:
    """Actor processes, each with a bounded number of unrolls in flight.

    Unrolls are return values: an object an actor put into the store itself would die with it. An actor that dies,
    raises or misses its deadline is replaced by one of the next incarnation, and what the old one still had in flight
    is dropped unread.
    """

    def __init__(self, config: ExperimentConfig) -> None:
        self.config = config
        self.ray = start_ray(config.agent.num_actors)
        self.remote_actor = self.ray.remote(num_cpus=1)(Actor)
        self.incarnations = [0] * config.agent.num_actors
        self.failures = [0] * config.agent.num_actors
        self.handles: list[Any] = []
        self.starting = [True] * config.agent.num_actors
        self.requests: dict[Any, Request] = {}
        self.weights_ref: Any = None
        self.version = 0
        self.restarts = 0

    def _start(self, actor: int) -> Any:
        self.starting[actor] = True
        return self.remote_actor.remote(self.config, actor, self.incarnations[actor])

    def publish(self, weights: Weights, version: int) -> None:
        self.weights_ref, self.version = self.ray.put(weights), version
        if not self.handles:
            self.handles = [self._start(actor) for actor in range(len(self.incarnations))]
            for actor in range(len(self.handles)):
                self._fill(actor)

    def _fill(self, actor: int) -> None:
        outstanding = sum(request.actor == actor for request in self.requests.values())
        for _ in range(self.config.agent.max_in_flight - outstanding):
            ref = self.handles[actor].unroll.remote(self.weights_ref, self.version)
            self.requests[ref] = Request(actor, self._deadline(actor))

    def _deadline(self, actor: int) -> float:
        allowance = START_ALLOWANCE if self.starting[actor] else 0.0
        return time.monotonic() + self.config.agent.unroll_deadline + allowance

    def next_unroll(self) -> Unroll:
        while True:
            earliest = min(request.deadline for request in self.requests.values())
            timeout = max(earliest - time.monotonic(), 0.0)
            ready, _ = self.ray.wait(list(self.requests), num_returns=1, timeout=timeout, fetch_local=True)
            if not ready:
                self._replace_overdue()
                continue
            request = self.requests.pop(ready[0])
            try:
                unroll: Unroll = self.ray.get(ready[0])
            except self.ray.exceptions.RayError as error:
                self._replace(request.actor, error)
                continue
            self.failures[request.actor] = 0
            self.starting[request.actor] = False
            # A queued unroll only begins when the one before it is done.
            for other in self.requests.values():
                if other.actor == request.actor:
                    other.deadline = self._deadline(other.actor)
            self._fill(request.actor)
            return unroll

    def _replace_overdue(self) -> None:
        now = time.monotonic()
        for actor in sorted({r.actor for r in self.requests.values() if r.deadline <= now}):
            self._replace(actor, TimeoutError(f"no unroll within {self.config.agent.unroll_deadline} s"))

    def _replace(self, actor: int, cause: Exception) -> None:
        self.requests = {ref: request for ref, request in self.requests.items() if request.actor != actor}
        with contextlib.suppress(self.ray.exceptions.RayError):
            self.ray.kill(self.handles[actor])
        self.failures[actor] += 1
        if self.failures[actor] > self.config.agent.max_actor_restarts:
            reason = getattr(cause, "cause", None) or cause
            raise TrainingError(
                f"actor {actor} failed {self.failures[actor]} times without an unroll between; the last time: "
                f"{type(reason).__name__}: {reason}"
            ) from None
        self.restarts += 1
        self.incarnations[actor] += 1
        self.handles[actor] = self._start(actor)
        self._fill(actor)

    def state(self) -> dict[str, Any]:
        # Asynchronous actors never repeat exactly; a resumed run must only not replay the episodes already played.
        return {"incarnations": list(self.incarnations)}

    def load(self, state: dict[str, Any]) -> list[str]:
        last = state["incarnations"]
        same = len(last) == len(self.incarnations)
        self.incarnations = [(last[actor] if same else max(last)) + 1 for actor in range(len(self.incarnations))]
        return []

    def close(self) -> None:
        self.ray.shutdown()


def make_actors(config: ExperimentConfig) -> ActorSource:
    """The source an experiment asks for."""
    return ActorPool(config) if config.agent.num_actors else LocalActor(config)
