"""Several learners on one machine: each has a shard of the batch, all have the same weights.

The first learner is this process; the others are processes that it starts and feeds. Gradients are summed with
torch.distributed over the loopback address. A learner that dies or hangs ends the run with TrainingError: the last
checkpoint is whole, and `--resume` goes on from them.
"""

from __future__ import annotations

import contextlib
import datetime
import io
import multiprocessing
import os
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
from agents.learner import Learner, TrainingError
from agents.moments import SumInPlace
from agents.policy import make_policy
from agents.unroll import Unroll, batch

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
        self.first = Learner(policy, config, summing(config))
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
            with self._lost_learners_named():
                join(config, 0, str(meeting_place / "store"))
            self._send("load", packed(policy.state_dict(), self.first.state()))
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
        with self._lost_learners_named():
            for connection, shard in zip(self.connections, shards[1:], strict=True):
                self.senders.submit(connection.send, ("update", shard, step))
            return self.first.update(batch(shards[0]), step)

    def check_agreement(self) -> None:
        """Raise TrainingError unless all learners have bitwise the same weights and optimizer."""
        self._send("digest")
        with self._lost_learners_named():
            for rank, connection in enumerate(self.connections, 1):
                if not connection.poll(self.config.agent.start_deadline):
                    raise TimeoutError(f"learner {rank} does not answer")
                if connection.recv() != self.first.digest():
                    raise TrainingError(f"the weights of learner {rank} are no longer those of learner 0")

    def load(self, weights: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Continue from weights and `Learner.state()`, in all learners."""
        self.first.policy.load_state_dict(weights)
        self.first.load(state)
        self._send("load", packed(weights, state))

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
        with self._lost_learners_named():
            for connection in self.connections:
                connection.send(message)

    @contextlib.contextmanager
    def _lost_learners_named(self) -> Iterator[None]:
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


def packed(*data: Any) -> bytes:
    """Tensors by value: sent as they are, they would stay shared between the processes."""
    buffer = io.BytesIO()
    torch.save(data, buffer)
    return buffer.getvalue()


def summing(config: ExperimentConfig) -> SumInPlace:
    """A function that adds up a tensor over all learners, in place; RuntimeError if one does not answer in time."""
    deadline = datetime.timedelta(seconds=config.agent.unroll_deadline)

    def sum_over_learners(tensor: Tensor) -> None:
        dist.all_reduce(tensor, async_op=True).wait(deadline)

    return sum_over_learners


def join(config: ExperimentConfig, rank: int, store: str) -> None:
    """Meet the other learners at a file, over the loopback address; waits for them."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    size = config.agent.num_learners
    dist.init_process_group(
        "gloo",
        init_method=f"file://{store}",
        rank=rank,
        world_size=size,
        timeout=datetime.timedelta(seconds=config.agent.start_deadline),
    )
    dist.barrier()


def learn(config: ExperimentConfig, spaces: Spaces, rank: int, store: str, connection: Connection) -> None:
    """A learner that does what the first one says, until that one has gone; the target of a process."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the first learner decides when to stop
    torch.set_num_threads(config.train.num_threads)
    torch.manual_seed(config.train.seed + rank)
    join(config, rank, store)
    learner = Learner(make_policy(config, *spaces), config, summing(config))
    # The first learner reports what went wrong.
    with contextlib.suppress(EOFError, OSError, TrainingError, RuntimeError):
        while True:
            match connection.recv():
                case ("update", unrolls, step):
                    learner.update(batch(unrolls), step)
                case ("load", data):
                    weights, state = torch.load(io.BytesIO(data), weights_only=True)
                    learner.policy.load_state_dict(weights)
                    learner.load(state)
                case ("digest",):
                    connection.send(learner.digest())
