"""Train for some minutes while processes are killed: does the run go on, and does anything pile up or stay behind?

    python -m benchmarks.faults.soak [--minutes 30] [--every 60] [--seed 1]

Two nodes of a Ray cluster on this machine hold two actors each. Every `--every` seconds, in turn, one actor chosen at
random is killed, then one node (another takes its place). The run is stopped by SIGTERM and its last checkpoint
resumed.
"""

from __future__ import annotations

import argparse
import itertools
import os
import queue
import random
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agents.cluster import LOCAL
from agents.config import AgentConfig, EnvConfig, ExperimentConfig, TrainConfig
from agents.trainer import ImpalaTrainer
from benchmarks.command_line import make_parser
from reverie import checkpoint, train
from reverie.run_folder import open_run
from tests.agents.processes import actor_pids, descendants, listening, wait_until
from training.config import CoreConfig, RunConfig


class Watched(ImpalaTrainer):
    """Notes when each update was done, by a clock that stands still while this thread starts a node."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.done: list[float] = []
        self.latest: dict[str, float] = {}
        self.replacements: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self.away = 0.0

    def clock(self) -> float:
        """Seconds."""
        return time.monotonic() - self.away

    def update(self) -> dict[str, float]:
        """One update."""
        while not self.replacements.empty():
            begun = time.monotonic()
            self.replacements.get()()
            self.away += time.monotonic() - begun
        self.latest = super().update()
        self.done.append(self.clock())
        return self.latest


def experiment(root: str, total_steps: int) -> ExperimentConfig:
    """A small LSTM on the T-maze, four actors."""
    return ExperimentConfig(
        EnvConfig("envs:TMaze-v0", {"length": 6}),
        CoreConfig("lstm", 64),
        AgentConfig(num_actors=4, envs_per_actor=8, batch_size=32, unroll_length=20, unroll_deadline=20.0),
        TrainConfig(total_steps, checkpoint_interval=50),
        RunConfig("soak", root),
    )


def memory_and_files(pid: int) -> tuple[float, int]:
    """Resident MB and open files of a process; zeros where it has gone."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6, len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return 0.0, 0


class Chaos(threading.Thread):
    """Kills, measures, and stops the run when its time is over."""

    def __init__(self, cluster: Any, trainer: Watched, arguments: argparse.Namespace) -> None:
        super().__init__(daemon=True)
        self.cluster, self.trainer, self.arguments = cluster, trainer, arguments
        self.random = random.Random(arguments.seed)
        self.kills: list[tuple[float, str]] = []

    def run(self) -> None:
        """Until the time is over."""
        begun = time.monotonic()
        end = begun + 60 * self.arguments.minutes
        next_kill, next_line = begun + self.arguments.every, begun
        while time.monotonic() < end:
            time.sleep(0.5)
            now = time.monotonic()
            if now >= next_line:
                next_line += 30
                self.print_line(now - begun)
            if now >= next_kill and now < end - self.arguments.every / 2:
                next_kill += self.arguments.every
                self.kill()
        os.kill(os.getpid(), signal.SIGTERM)

    def print_line(self, seconds: float) -> None:
        """Progress, and what the processes hold."""
        megabytes, files = memory_and_files(os.getpid())
        actors = [memory_and_files(pid) for pid in actor_pids()] or [(0.0, 0)]
        print(
            f"{seconds:6.0f} s  {self.trainer.step_count:>10,} steps  "
            f"learner {megabytes:5.0f} MB {files:3} files  "
            f"largest actor {max(m for m, _ in actors):4.0f} MB {max(f for _, f in actors):3} files  "
            f"restarts {self.trainer.latest.get('actors/restarts', 0):.0f}",
            flush=True,
        )

    def kill(self) -> None:
        """An actor, or, every other time, a node."""
        if len(self.kills) % 2:
            node = self.random.choice(sorted(self.cluster.worker_nodes, key=lambda node: node.node_id))
            self.kills.append((self.trainer.clock(), "node"))
            self.cluster.remove_node(node, allow_graceful=False)
            # A node can be started from the main thread alone.
            self.trainer.replacements.put(self.add_node)
            return
        if pids := sorted(actor_pids()):
            self.kills.append((self.trainer.clock(), "actor"))
            os.kill(self.random.choice(pids), signal.SIGKILL)

    def add_node(self) -> None:
        """Another node; Ray sets a signal handler of its own when it starts one."""
        handler = signal.getsignal(signal.SIGTERM)
        self.cluster.add_node(wait=False, num_cpus=2)
        signal.signal(signal.SIGTERM, handler)


def gap_after(moment: float, done: list[float]) -> float:
    """The longest time without an update among those of the next 60 s."""
    near = [t for t in done if moment - 5 <= t <= moment + 60]
    return max((b - a for a, b in itertools.pairwise(near)), default=float("nan"))


def main() -> None:
    """Print what happened."""
    parser = make_parser(__doc__, seed=1)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--every", type=float, default=60, help="seconds between two kills")
    arguments = parser.parse_args()
    os.environ.update(LOCAL)
    from ray.cluster_utils import Cluster

    root = tempfile.mkdtemp(prefix="reverie-soak-")
    before = set(os.listdir(tempfile.gettempdir()))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    for _ in range(2):
        cluster.add_node(num_cpus=2)
    cluster.wait_for_nodes()

    config = experiment(root, 10**12)
    with open_run(config) as folder:
        trainer = Watched(config, cluster.address)
        chaos = Chaos(cluster, trainer, arguments)
        chaos.start()
        code = train.run(config, trainer, folder)
        trainer.close()
    gaps = [b - a for a, b in itertools.pairwise(trainer.done)]
    print(f"exit code {code} (143 is right), {len(trainer.done):,} updates, {trainer.step_count:,} steps")
    print(f"longest gap without an update {max(gaps):.1f} s, median {sorted(gaps)[len(gaps) // 2]:.3f} s")
    for kind in ("actor", "node"):
        found = [gap_after(moment, trainer.done) for moment, what in chaos.kills if what == kind]
        print(f"{kind}s killed: {len(found)}; longest gap after each: {', '.join(f'{gap:.1f} s' for gap in found)}")
    print("counts: " + ", ".join(f"{tag} {n}" for tag, n in trainer.actors.metrics().items()))

    found, skipped = checkpoint.newest(folder.path / "checkpoints")
    assert found is not None
    print(f"last checkpoint: step {found.step:,} ({'all' if not skipped else 'NOT all'} verify)")
    longer = experiment(root, found.step + 20_000)
    with open_run(longer, resume=True) as folder:
        resumed = Watched(longer, cluster.address)
        code = train.run(longer, resumed, folder)
        resumed.close()
    print(f"resumed from it to step {resumed.step_count:,}: exit code {code}")

    cluster.shutdown()
    wait_until(lambda: not descendants(os.getpid()), 20)
    left = descendants(os.getpid())
    print(f"processes left: {len(left)}; ports left: {len(listening([os.getpid(), *left]))}")
    files = sorted(name for name in {*os.listdir(tempfile.gettempdir())} - before if name.startswith("reverie"))
    print(f"files left in {tempfile.gettempdir()}: {files}; lock file empty: {not (folder.path / 'lock').read_text()}")
    print(f"run folder: {sorted(path.name for path in folder.path.iterdir())} in {root}")


if __name__ == "__main__":
    main()
