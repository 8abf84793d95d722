"""Steps and seconds until CartPole without velocities is solved: this project, RLlib's IMPALA and Sample Factory.

    python -m benchmarks.learning.rl_threshold [--threshold 450] [--limit 300] [--seeds 1 2 3] [--sample-factory PYTHON]

Solved is a mean return of --threshold over the latest 100 episodes of training. Seconds are those since the first
steps were counted, so that no system pays for its start. Systems, settings and Sample Factory's environment are told in
benchmarks/rl_systems.py; every run is a process of its own, and seeds are interleaved. Without success in --limit
seconds the highest mean return is printed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

from benchmarks import rl_systems
from benchmarks.command_line import make_parser
from benchmarks.rl_systems import Progress, Setting


def outcome(told: Iterable[Progress], threshold: float, limit: float) -> str:
    """What came of a run."""
    began, best = None, float("-inf")
    for point in told:
        if point.steps == 0:
            continue
        began = began or point
        seconds = point.seconds - began.seconds
        best = max(best, point.mean_return)  # a mean that is not a number is never larger
        if point.mean_return >= threshold:
            return f"{threshold:.0f} after {point.steps:,} steps, {seconds:.0f} s"
        if seconds >= limit:
            return f"not in {point.steps:,} steps, {seconds:.0f} s; highest {best:.0f}"
    raise SystemExit("a process ended before its time")


def main() -> None:
    parser = make_parser(__doc__, seeds=[1, 2, 3])
    parser.add_argument("--threshold", type=float, default=450.0)
    parser.add_argument("--limit", type=float, default=300.0, help="seconds of one run")
    parser.add_argument("--envs", type=int, default=8, help="environments of a worker")
    parser.add_argument("--systems", nargs="+", choices=rl_systems.NAMES, default=rl_systems.NAMES)
    parser.add_argument("--sample-factory", metavar="PYTHON", default=rl_systems.SAMPLE_FACTORY)
    arguments = parser.parse_args()
    systems = rl_systems.runnable(arguments.systems, arguments.sample_factory)
    for seed in arguments.seeds:
        for system in systems:
            setting = Setting(system, "cartpole", arguments.envs, seed)
            told = rl_systems.progress(setting, arguments.sample_factory, arguments.limit + 60)
            with contextlib.closing(told):
                print(f"seed {seed}  {system:15} {outcome(told, arguments.threshold, arguments.limit)}", flush=True)


if __name__ == "__main__":
    main()
