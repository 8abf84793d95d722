"""Several learners on one machine: each has a shard of the batch, all have the same weights.

The first learner is this process; the others are processes that it starts and feeds. Gradients are summed with
torch.distributed over the loopback address. A learner that dies or hangs ends the run with TrainingError: the last
checkpoint is whole, and `--resume` goes on from them.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import shutil
import signal
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
import torch.distributed as dist
from torch import Tensor

from agents.config import ExperimentConfig
from agents.learner import Learner
from agents.policy import make_policy
from agents.unroll import Unroll, batch
from training.errors import TrainingError
from training.process_group import join_group, make_sum, pack, unpack
from training.progress import ProgressLine
from training.weights import load_weights, weights_of

Spaces = tuple[gym.Space[Any], gym.Space[Any]]


class Learners:
    """The learners of a run as one: `update` takes the whole batch, the rest is that of the first."""

    def __init__(self, config: ExperimentConfig, spaces: Spaces) -> None:
        self.config = config
        self.peers: list[multiprocessing.process.BaseProcess] = []
        self.connections: list[Connection] = []
        policy = make_policy(config, *spaces)
        if config.agent.num_learners == 1:
            self.first = Learner(policy, config)
            return
        self.first = Learner(policy, config, make_sum(config.agent.unroll_deadline))
        self.senders = ThreadPoolExecutor(max_workers=config.agent.num_learners - 1)
        context = multiprocessing.get_context("spawn")
        meeting_place = Path(tempfile.mkdtemp(prefix="reverie-learners-"))
        try:
            for rank in range(1, config.agent.num_learners):
                ours, theirs = context.Pipe()
                arguments = (config, spaces, rank, str(meeting_place / "store"), theirs)
                peer = context.Process(target=learn, args=arguments, daemon=True, name=f"learner {rank}")
                peer.start()
                theirs.close()
                self.peers.append(peer)
                self.connections.append(ours)
            starting = f"starting {config.agent.num_learners} learners"
            with ProgressLine(None, what=starting), self._name_lost_learners():
                join_learners(config, 0, str(meeting_place / "store"))
            self._send("load", pack(weights_of(policy), self.first.state()))
        except BaseException:
            self.close()
            raise
        finally:
            # Everyone has met: nothing is left behind, however this process ends.
            shutil.rmtree(meeting_place, ignore_errors=True)

    def update(self, unrolls: Sequence[Unroll], step: int) -> dict[str, float]:
        """One update on unrolls that are shared out evenly; as `Learner.update`."""
        share = len(unrolls) // (len(self.peers) + 1)
        shards = [list(unrolls[start : start + share]) for start in range(0, len(unrolls), share)]
        with self._name_lost_learners():
            for connection, shard in zip(self.connections, shards[1:], strict=True):
                self.senders.submit(connection.send, ("update", shard, step))
            return self.first.update(batch(shards[0]), step)

    def check_agreement(self) -> None:
        """Raise TrainingError unless all learners have bitwise the same weights and optimizer."""
        self._send("digest")
        with self._name_lost_learners():
            for rank, connection in enumerate(self.connections, 1):
                if not connection.poll(self.config.agent.start_deadline):
                    raise TimeoutError(f"learner {rank} does not answer")
                if connection.recv() != self.first.digest():
                    raise TrainingError(f"the weights of learner {rank} are no longer those of learner 0")

    def load(self, weights: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Continue from weights and `Learner.state()`, in all learners."""
        load_weights(self.first.policy, weights)
        self.first.load(state)
        self._send("load", pack(weights, state))

    def close(self) -> None:
        """End the other learners."""
        for connection in self.connections:
            connection.close()
        for peer in self.peers:
            peer.join(timeout=1.0)
            peer.kill()
            peer.join()
        if self.peers:
            self.senders.shutdown(wait=False, cancel_futures=True)
            with contextlib.suppress(RuntimeError, ValueError, AssertionError):
                dist.destroy_process_group()
        self.peers, self.connections = [], []

    def _send(self, *message: Any) -> None:
        with self._name_lost_learners():
            for connection in self.connections:
                connection.send(message)

    @contextlib.contextmanager
    def _name_lost_learners(self) -> Iterator[None]:
        try:
            yield
        except (RuntimeError, OSError, EOFError) as error:
            if not self.peers:
                raise
            for peer in self.peers:
                peer.join(timeout=1.0)
            dead = [f"{p.name} ended with exit code {p.exitcode}" for p in self.peers if p.exitcode is not None]
            if not (dead or isinstance(error, OSError | EOFError) or "timed out" in str(error).lower()):
                raise
            what = ", ".join(dead) or f"a learner does not answer: {error}"
            raise TrainingError(f"{what}; --resume continues from the last checkpoint") from error


def join_learners(config: ExperimentConfig, rank: int, store: str) -> None:
    """Meet the other learners of a run as number `rank`, at the file `store`."""
    join_group(rank, config.agent.num_learners, store, timeout=config.agent.start_deadline)


def learn(config: ExperimentConfig, spaces: Spaces, rank: int, store: str, connection: Connection) -> None:
    """A learner that does what the first one says, until that one has gone; the target of a process."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the first learner decides when to stop
    torch.set_num_threads(config.train.num_threads)
    torch.manual_seed(config.train.seed + rank)
    join_learners(config, rank, store)
    learner = Learner(make_policy(config, *spaces), config, make_sum(config.agent.unroll_deadline))
    # The first learner reports what went wrong.
    with contextlib.suppress(EOFError, OSError, TrainingError, RuntimeError):
        while True:
            match connection.recv():
                case ("update", unrolls, step):
                    learner.update(batch(unrolls), step)
                case ("load", data):
                    weights, state = unpack(data)
                    load_weights(learner.policy, weights)
                    learner.load(state)
                case ("digest",):
                    connection.send(learner.digest())
