"""Actor processes on Ray: asked for unrolls, watched by deadline, replaced when they fail, given up if they always do.

Unrolls are return values: an object an actor put into the store itself would die with it. What a failed actor still had
in flight is dropped unread, so no unroll of an old incarnation is ever learned from.
"""

from __future__ import annotations

import contextlib
import logging
import time
from dataclasses import dataclass
from typing import Any

import gymnasium as gym

from agents.actor import Weights
from agents.actor_seeds import ActorSeeds
from agents.cluster import start_ray
from agents.config import ExperimentConfig
from agents.inference import InferenceServer
from agents.remote_actor import RemoteActor, env_spaces
from agents.unroll import Unroll
from envs import EnvError
from training.errors import TrainingError
from training.progress import ProgressLine
from training.restoring import count_in

MAX_BACKOFF = 60.0
"""Seconds at most before an actor is started again."""
COUNTS = (
    "actors/restarts",
    "actors/given_up",
    "actors/missed_deadlines",
    "actors/lost_unrolls",
    "actors/inference_restarts",
)
USABLE_SHARE = 0.8
"""Of the object store; beyond it Ray writes objects to disk."""

logger = logging.getLogger(__name__)


@dataclass
class Slot:
    """One actor: its process now, or when its next one starts."""

    index: int
    incarnation: int = 0
    handle: Any = None
    failures: int = 0
    """Without an unroll between them."""
    has_delivered: bool = False
    starts_at: float = 0.0
    """On the monotonic clock, where there is no process."""
    given_up: bool = False


@dataclass
class Request:
    """An unroll asked of an actor."""

    slot: Slot
    deadline: float
    """On the monotonic clock."""


class ActorPool:
    """Actor processes, each with a bounded number of unrolls in flight."""

    def __init__(self, config: ExperimentConfig, address: str | None = None) -> None:
        """`address` is that of a Ray cluster; None starts one on this machine."""
        self.config = config
        num_processes = config.agent.num_actors + (config.agent.inference == "learner")
        with ProgressLine(None, what=f"starting Ray for {num_processes} processes"):
            self.session = start_ray(num_processes, address)
        self.ray = self.session.ray
        if (num_cpus := self.ray.cluster_resources().get("CPU", 0.0)) < num_processes:
            logger.warning(
                "the Ray cluster has %g CPUs, one for each of %d processes is needed (agent.num_actors is %d): those "
                "without one wait until a node joins",
                num_cpus,
                num_processes,
                config.agent.num_actors,
            )
        spread = {"num_cpus": 1, "scheduling_strategy": "SPREAD"}
        self.remote_actor = self.ray.remote(**spread)(RemoteActor)
        self.slots = [Slot(index) for index in range(config.agent.num_actors)]
        self.seeds = ActorSeeds(config)
        self.requests: dict[Any, Request] = {}
        self.weights: Weights = {}
        self.weights_ref: Any = None
        self.version = 0
        self.server: Any = None
        self.server_failures = 0
        self.counts = dict.fromkeys(COUNTS, 0)

    def spaces(self) -> tuple[gym.Space[Any], gym.Space[Any]]:
        """Observation and action space, asked of an environment in a process of its own.

        Raises EnvError if it cannot be made, TrainingError if its process dies or does not answer in time.
        """
        agent = self.config.agent
        ask = self.ray.remote(num_cpus=1, max_retries=0)(env_spaces)
        ref = ask.remote(self.config.env)
        where = f"environment {self.config.env.id!r}"
        try:
            with ProgressLine(None, what=f"{where}: asking for its spaces in a process of its own"):
                self.observation_space, self.action_space, advice = self.ray.get(ref, timeout=agent.start_deadline)
        except self.ray.exceptions.GetTimeoutError:
            self.ray.cancel(ref, force=True)
            raise TrainingError(f"{where}: not made within {agent.start_deadline:g} s (agent.start_deadline)") from None
        except self.ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None)
            if isinstance(cause, EnvError):
                raise cause from None
            raise TrainingError(f"{where}: its process failed while it was made: {reason(error)}") from None
        for sentence in advice:
            logger.warning("%s: %s", where, sentence)
        return self.observation_space, self.action_space

    def require_room(self, unroll_bytes: int, weights_bytes: int) -> None:
        """Raise TrainingError if what can be in flight does not fit the object store of this machine."""
        agent = self.config.agent
        in_flight = agent.num_actors * agent.max_in_flight
        unrolls = in_flight + agent.batch_size // agent.envs_per_actor
        needed = unrolls * unroll_bytes + (in_flight + 1) * weights_bytes
        here = self.ray.get_runtime_context().get_node_id()
        (node,) = (node for node in self.ray.nodes() if node["NodeID"] == here)
        room = int(USABLE_SHARE * node["Resources"].get("object_store_memory", 0))
        if needed > room:
            raise TrainingError(
                f"the object store has room for {room / 1e6:,.0f} MB, and {needed / 1e6:,.0f} MB can be in flight: "
                f"{unrolls} unrolls of {unroll_bytes / 1e6:,.1f} MB and {in_flight + 1} weights of "
                f"{weights_bytes / 1e6:,.1f} MB; lower agent.unroll_length, agent.envs_per_actor, agent.max_in_flight "
                f"or agent.batch_size, or give Ray a larger store (/dev/shm)"
            )

    def publish(self, weights: Weights, version: int) -> None:
        """Make these the weights of every unroll that is begun from now on."""
        self.weights, self.weights_ref, self.version = weights, self.ray.put(weights), version
        if self.config.agent.inference == "learner":
            if self.server is None:
                remote_server = self.ray.remote(num_cpus=1)(InferenceServer)
                spaces = self.observation_space, self.action_space
                self.server = remote_server.remote(self.config, *spaces, self.weights_ref, version)
            self.server.set_weights.remote(self.weights_ref, version)

    def next_unroll(self) -> Unroll:
        """The next finished unroll; waits for one."""
        if any(slot.has_delivered for slot in self.slots):
            return self._next_unroll()
        with ProgressLine(None, what=f"starting {len(self.slots)} actors"):
            return self._next_unroll()

    def _next_unroll(self) -> Unroll:
        while True:
            now = time.monotonic()
            waiting = [slot for slot in self.slots if slot.handle is None and not slot.given_up]
            for slot in waiting:
                if slot.starts_at <= now:
                    self._start(slot)
            moments = [request.deadline for request in self.requests.values()]
            moments += [slot.starts_at for slot in waiting if slot.handle is None]
            timeout = max(min(moments) - now, 0.0)
            if not self.requests:
                time.sleep(timeout)
                continue
            ready, _ = self.ray.wait(list(self.requests), num_returns=1, timeout=timeout, fetch_local=True)
            if not ready:
                self._replace_overdue()
                continue
            request = self.requests.pop(ready[0])
            try:
                unroll: Unroll = self.ray.get(ready[0])
            except self.ray.exceptions.RayError as error:
                self._handle_failure(request.slot, error)
                continue
            self._handle_delivery(request.slot)
            return unroll

    def _start(self, slot: Slot) -> None:
        arguments = slot.index, slot.incarnation, self.seeds.past_rows
        slot.handle = self.remote_actor.remote(self.config, *arguments, self.server)
        slot.has_delivered = False
        self._fill(slot)

    def _fill(self, slot: Slot) -> None:
        outstanding = sum(request.slot is slot for request in self.requests.values())
        weights = self.weights_ref if self.server is None else {}
        for _ in range(self.config.agent.max_in_flight - outstanding):
            ref = slot.handle.unroll.remote(weights, self.version)
            self.requests[ref] = Request(slot, self._deadline(slot))

    def _deadline(self, slot: Slot) -> float:
        allowance = 0.0 if slot.has_delivered else self.config.agent.start_deadline
        return time.monotonic() + self.config.agent.unroll_deadline + allowance

    def _handle_delivery(self, slot: Slot) -> None:
        slot.failures = self.server_failures = 0
        slot.has_delivered = True
        # A queued unroll only begins when the one before it is done.
        for other in self.requests.values():
            if other.slot is slot:
                other.deadline = self._deadline(slot)
        self._fill(slot)

    def _replace_overdue(self) -> None:
        now = time.monotonic()
        overdue = {r.slot.index for r in self.requests.values() if r.deadline <= now}
        if overdue and self.server is not None and not self._server_answers():
            self._restart_server(TimeoutError("the inference process does not answer"))
            return
        for index in sorted(overdue):
            self.counts["actors/missed_deadlines"] += 1
            self._replace(self.slots[index], TimeoutError(f"no unroll within {self.config.agent.unroll_deadline:g} s"))

    def _handle_failure(self, slot: Slot, error: Exception) -> None:
        # An actor's own death comes as such; that of the inference process as the cause of an error in the actor.
        if self.server is not None and isinstance(getattr(error, "cause", None), self.ray.exceptions.RayError):
            self._restart_server(error)
        else:
            self._replace(slot, error)

    def _drop(self, slot: Slot) -> None:
        """End the actor's process, and refuse what it still had in flight."""
        before = len(self.requests)
        self.requests = {ref: request for ref, request in self.requests.items() if request.slot is not slot}
        self.counts["actors/lost_unrolls"] += before - len(self.requests)
        if slot.handle is not None:
            with contextlib.suppress(self.ray.exceptions.RayError):
                self.ray.kill(slot.handle)
        slot.handle = None

    def _replace(self, slot: Slot, error: Exception) -> None:
        agent = self.config.agent
        self._drop(slot)
        slot.failures += 1
        told = reason(error)
        if slot.failures > agent.max_actor_restarts:
            slot.given_up = True
            self.counts["actors/given_up"] += 1
            left = sum(not other.given_up for other in self.slots)
            message = (
                f"actor {slot.index} failed {slot.failures} times without an unroll between; the last time: {told}"
            )
            if left < agent.min_actors:
                raise TrainingError(f"{message}\n{left} actors are left, agent.min_actors is {agent.min_actors}")
            logger.warning("%s; the run goes on with %d actors", message, left)
            return
        # The first restart is at once: most failures do not repeat.
        delay = min(agent.restart_backoff * 2 ** (slot.failures - 2), MAX_BACKOFF) if slot.failures > 1 else 0.0
        logger.warning("actor %d is replaced in %.1f s: %s", slot.index, delay, told)
        self.counts["actors/restarts"] += 1
        slot.incarnation += 1
        slot.starts_at = time.monotonic() + delay

    def _server_answers(self) -> bool:
        ready, _ = self.ray.wait([self.server.__ray_ready__.remote()], timeout=self.config.agent.unroll_deadline)
        return bool(ready)

    def _restart_server(self, error: Exception) -> None:
        """A dead inference process takes every actor's memory with it: all begin anew."""
        self.server_failures += 1
        if self.server_failures > self.config.agent.max_actor_restarts:
            raise TrainingError(f"the inference process failed {self.server_failures} times: {reason(error)}")
        logger.warning("the inference process and every actor are replaced: %s", reason(error))
        self.counts["actors/inference_restarts"] += 1
        for slot in self.slots:
            self._drop(slot)
            slot.incarnation += 1
        with contextlib.suppress(self.ray.exceptions.RayError):
            self.ray.kill(self.server)
        self.server = None
        self.publish(self.weights, self.version)

    def metrics(self) -> dict[str, int]:
        """Counts since the run began, by TensorBoard tag."""
        return dict(self.counts)

    def state(self) -> dict[str, Any]:
        """Asynchronous actors never repeat exactly; a resumed run must only not replay the episodes already played."""
        return {
            "seeds": self.seeds.state([slot.incarnation for slot in self.slots]),
            "counts": dict(self.counts),
        }

    def load(self, state: dict[str, Any]) -> list[str]:
        """Continue from the state of any source, with incarnations that are all later."""
        for slot, last in zip(self.slots, self.seeds.load(state["seeds"]), strict=True):
            slot.incarnation = last + 1
        # Actors that were given up are tried again.
        self.counts = {name: count_in(state["counts"], name) for name in COUNTS} | {"actors/given_up": 0}
        if "envs" in state:
            return ["agent.num_actors was 0 before: the actors begin new episodes, with an empty memory"]
        return []

    def close(self) -> None:
        """Stop the actors, and Ray unless it was there before."""
        if not self.session.is_shared:
            self.session.close()
            return
        for slot in self.slots:
            self._drop(slot)
        if self.server is not None:
            self.ray.kill(self.server)


def reason(error: Exception) -> str:
    """A failure in another process, in one line: how the process ended, and the type and message of the cause."""
    cause = getattr(error, "cause", None) or error
    kind, text = type(cause).__name__, str(cause).strip()
    if isinstance(cause, MemoryError) or kind == "OutOfMemoryError" or "allocate memory" in text:
        return f"memory: {kind}: {text}"
    if kind in ("ActorDiedError", "WorkerCrashedError", "ActorUnavailableError"):
        return f"its process died ({kind})"
    if kind == "NodeDiedError":
        return "its node died"
    return f"{kind}: {text}"
