"""Environment steps a second, sampled and learned from: this project, RLlib's IMPALA and Sample Factory.

    python -m benchmarks.speed.rl_throughput [--seconds 60] [--rounds 3] [--sample-factory PYTHON] [--systems NAME ...]

Two worker processes of 8 and of 32 environments; the tasks are CartPole without velocities and MiniGrid-MemoryS7 with a
flat view; the rest is told in benchmarks/rl_systems.py. Rounds are interleaved, so that what else the machine does
meets every system alike; each measurement is a process of its own that counts steps over `--seconds` after a warm-up.
A system's figure is the median of its rounds at the better of its two numbers of environments. Sample Factory is left
out where `--sample-factory` names no interpreter.
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Iterable

from benchmarks import rl_systems, throughput_envs
from benchmarks.command_line import make_parser
from benchmarks.rl_systems import Progress, Setting

ENVS = (8, 32)
WARM_UP = 10.0


def rate(told: Iterable[Progress], seconds: float) -> float:
    """Steps a second over so many seconds after the warm-up."""
    began = start = None
    for point in told:
        if point.steps == 0:
            continue
        began = began or point
        if start is None or point.seconds < began.seconds + WARM_UP:
            start = point
        elif point.seconds >= start.seconds + seconds:
            return (point.steps - start.steps) / (point.seconds - start.seconds)
    raise SystemExit("a process ended before its time")


def main() -> None:
    parser = make_parser(__doc__, rounds=3)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--systems", nargs="+", choices=rl_systems.NAMES, default=rl_systems.NAMES)
    parser.add_argument("--tasks", nargs="+", choices=throughput_envs.TASKS, default=throughput_envs.TASKS)
    parser.add_argument("--envs", nargs="+", type=int, default=ENVS)
    parser.add_argument("--sample-factory", metavar="PYTHON", default=rl_systems.SAMPLE_FACTORY)
    arguments = parser.parse_args()
    systems = rl_systems.runnable(arguments.systems, arguments.sample_factory)

    rates: dict[tuple[str, str, int], list[float]] = {}
    for number in range(arguments.rounds):
        for task in arguments.tasks:
            for envs_per_worker in arguments.envs:
                for system in systems:
                    setting = Setting(system, task, envs_per_worker)
                    limit = WARM_UP + 2 * arguments.seconds
                    told = rl_systems.progress(setting, arguments.sample_factory, limit)
                    with contextlib.closing(told):
                        value = rate(told, arguments.seconds)
                    rates.setdefault((task, system, envs_per_worker), []).append(value)
                    print(
                        f"round {number + 1}  {task:9} {envs_per_worker:3} envs  {system:15} {value:9,.0f}", flush=True
                    )
    print(f"\n{'task':9} {'system':15} {'envs':>4} {'median':>9} {'lowest':>9} {'highest':>9} {'ours / it':>9}")
    for task in arguments.tasks:
        best = {
            system: max((statistics.median(rates[task, system, n]), n) for n in arguments.envs) for system in systems
        }
        for system, (median, n) in best.items():
            values = rates[task, system, n]
            ratio = f"{best['reverie'][0] / median:9.2f}" if "reverie" in best else ""
            print(f"{task:9} {system:15} {n:4} {median:9,.0f} {min(values):9,.0f} {max(values):9,.0f} {ratio}")


if __name__ == "__main__":
    main()
