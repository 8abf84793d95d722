"""Actor processes that die, fail or hang: replaced and counted, or the run ends with the cause."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable

import pytest

from agents.config import ExperimentConfig
from agents.learner import TrainingError
from agents.trainer import ImpalaTrainer

MakeConfig = Callable[..., ExperimentConfig]
RANDOM_EPISODES = "tests.agents.scripted_envs:RandomEpisodes-v0"
FAULTY = "tests.agents.scripted_envs:Faulty-v0"


def parent(pid: int) -> int:
    """The parent of a process, 0 where it has gone."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return int(file.read().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def actor_pids() -> list[int]:
    """The actor processes of the Ray that this process started."""
    found = []
    for pid in (int(entry) for entry in os.listdir("/proc") if entry.isdigit()):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as file:
            if file.read().startswith(b"ray::Actor") and os.getpid() in (parent(pid), parent(parent(pid))):
                found.append(pid)
    return found


def test_a_killed_actor_is_replaced_and_counted(make_config: MakeConfig) -> None:
    trainer = ImpalaTrainer(make_config(RANDOM_EPISODES, num_actors=1, max_in_flight=2))
    try:
        assert trainer.update()["actors/restarts"] == 0
        (pid,) = actor_pids()
        os.kill(pid, signal.SIGKILL)
        metrics = [trainer.update() for _ in range(6)][-1]
        assert metrics["actors/restarts"] == 1
        assert trainer.actors.next_unroll().incarnation == 1
    finally:
        trainer.close()


def test_an_environment_that_always_fails_ends_the_run_with_its_cause(make_config: MakeConfig) -> None:
    config = make_config(FAULTY, env_kwargs={"fault": "raise", "at": 3}, num_actors=1, max_actor_restarts=1)
    trainer = ImpalaTrainer(config)
    try:
        with pytest.raises(TrainingError, match=r"actor 0 failed 2 times.*the maze fell in"):
            trainer.update()
    finally:
        trainer.close()


def test_an_actor_that_hangs_misses_its_deadline(make_config: MakeConfig) -> None:
    config = make_config(
        FAULTY, env_kwargs={"fault": "hang", "at": 20}, num_actors=1, unroll_deadline=4.0, max_actor_restarts=1
    )
    trainer = ImpalaTrainer(config)
    try:
        # Two unrolls of 8 steps, then the third hangs, in each incarnation anew.
        metrics = [trainer.update() for _ in range(3)]
        assert metrics[-1]["actors/restarts"] == 1
    finally:
        trainer.close()
