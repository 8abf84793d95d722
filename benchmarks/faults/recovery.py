"""Time to recover from each fault that can be injected from outside, measured on small runs on this machine.

    python -m benchmarks.faults.recovery [--deadline 5]

Prints a row of `docs/reliability.md` each: from the fault to the first update that learns from an actor that the fault
had hit, with the counters that tell of it; or, where the run ends, to its end with every process gone.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from agents.cluster import start_ray
from agents.config import AgentConfig, EnvConfig, ExperimentConfig, TrainConfig
from agents.trainer import ImpalaTrainer
from benchmarks.command_line import make_parser
from reverie import checkpoint
from tests.agents.processes import actor_pids, command_line, descendants, wait_until
from training.config import CoreConfig, RunConfig

RANDOM = "tests.agents.scripted_envs:RandomEpisodes-v0"


def experiment(env: str, deadline: float, **agent: object) -> ExperimentConfig:
    """Two actors of four small environments."""
    fields = {"num_actors": 2, "envs_per_actor": 4, "batch_size": 4, "unroll_length": 8, "unroll_deadline": deadline}
    return ExperimentConfig(
        EnvConfig(env),
        CoreConfig("lstm", 16),
        AgentConfig(**{**fields, **agent}),  # type: ignore[arg-type]
        TrainConfig(10**9),
        RunConfig("faults"),
    )


def recovery(name: str, config: ExperimentConfig, inject: Callable[[], None]) -> None:
    """Inject a fault into a running trainer; print how long until every actor delivers again."""
    trainer = ImpalaTrainer(config)
    first = {slot.index: slot.incarnation for slot in trainer.actors.slots}  # type: ignore[attr-defined]
    try:
        arrived = set()
        while len(arrived) < config.agent.num_actors:
            trainer.update()
            arrived.add(trainer.actors.next_unroll().actor)
        before = dict(trainer.actors.metrics())
        begun = last = time.monotonic()
        longest = 0.0
        inject()
        hit: set[int] = set()
        while True:
            trainer.update()
            now = time.monotonic()
            longest, last = max(longest, now - last), now
            slots = trainer.actors.slots  # type: ignore[attr-defined]
            hit |= {slot.index for slot in slots if slot.incarnation > first[slot.index]}
            if hit and all(slots[index].has_delivered for index in hit):
                break
        counts = {tag: n - before[tag] for tag, n in trainer.actors.metrics().items() if n > before[tag]}
        told = ", ".join(f"`{tag}` +{n}" for tag, n in counts.items())
        print(f"| {name} | {told} | {longest:.1f} | {time.monotonic() - begun:.1f} |", flush=True)
    finally:
        trainer.close()
        wait_until(lambda: not actor_pids(), 20)


def signal_actors(number: int, all_of_them: bool) -> Callable[[], None]:
    """Send a signal to one actor, or to all."""

    def inject() -> None:
        for pid in actor_pids()[: None if all_of_them else 1]:
            os.kill(pid, number)

    return inject


def kill_inference() -> None:
    """Kill the inference process."""
    for pid in descendants(os.getpid()):
        if command_line(pid).startswith(b"ray::InferenceServer"):
            os.kill(pid, signal.SIGKILL)


def ending(name: str, victim: bytes | None, number: int = signal.SIGKILL) -> None:
    """Send a signal to a part of a run of the command line (None: the learner); print how long until all has ended."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = [
            *(sys.executable, "-m", "reverie", "train", "rl/tmaze_lstm", f"run.root={folder}", "run.name=run"),
            *("agent.num_actors=1", "train.checkpoint_interval=1", "train.log_interval=1"),
        ]
        run = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        checkpoints = Path(folder) / "run" / "checkpoints"
        wait_until(lambda: bool(checkpoint.folders(checkpoints)), 300)
        below = descendants(run.pid)
        pids = [run.pid] if victim is None else [p for p in below if victim in command_line(p).split(b"\0")[0]]
        begun = time.monotonic()
        os.kill(pids[0], number)
        code = run.wait(120)
        wait_until(lambda: not any(command_line(pid) for pid in below), 60)
        seconds = time.monotonic() - begun
        found, skipped = checkpoint.newest(checkpoints)
        whole = "whole" if found is not None and not skipped else "DAMAGED"
        print(f"| {name} | exit code {code}, last checkpoint {whole} | | {seconds:.1f} |", flush=True)


def main() -> None:
    """Print the table."""
    parser = make_parser(__doc__)
    parser.add_argument("--deadline", type=float, default=5.0, help="agent.unroll_deadline, in seconds")
    deadline = parser.parse_args().deadline
    print("| fault | what tells of it | longest wait for an update, s | recovered or ended after, s |")
    print("| --- | --- | --- | --- |")
    session = start_ray(4)
    plain = experiment(RANDOM, deadline)
    recovery("one actor killed", plain, signal_actors(signal.SIGKILL, all_of_them=False))
    recovery("every actor killed", plain, signal_actors(signal.SIGKILL, all_of_them=True))
    recovery("one actor stopped", plain, signal_actors(signal.SIGSTOP, all_of_them=False))
    recovery("inference process killed", experiment(RANDOM, deadline, inference="learner"), kill_inference)
    session.close()
    ending("learner killed", None)
    ending("SIGTERM", None, signal.SIGTERM)
    ending("raylet killed", b"raylet/raylet")
    ending("GCS killed", b"gcs_server")


if __name__ == "__main__":
    main()
