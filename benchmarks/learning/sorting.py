"""The sorting task of Martins et al. (2109.00301) for several cores, lengths and seeds, and their accuracies.

    python -m benchmarks.learning.sorting [--lengths 512 1024 2048] [--cores transformer_xl compressive infinity]
        [--seeds 1 2 3] [--parallel 1] [--root runs/sorting] [KEY=VALUE ...]

Each run is `reverie train text/sorting_CORE` and `reverie evaluate`, --parallel at a time; KEY=VALUE overrides all
configurations. Accuracies are of the 20 symbols of an answer, generated one by one or teacher-forced;
equally frequent symbols may come in any order. The runs stay under --root for `reverie report`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.command_line import make_parser
from benchmarks.runs import score, train

CORES = ("transformer_xl", "compressive", "infinity")
COLUMNS = (
    "generated_symbol_accuracy",
    "generated_sequence_accuracy",
    "teacher_forced_symbol_accuracy",
    "nats_per_symbol",
)


@dataclass(frozen=True)
class Setting:
    """One run of the table."""

    length: int
    core: str
    seed: int


def run(setting: Setting, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train and score one setting; its answers' figures and the seconds of its training."""
    folder = Path(arguments.root) / f"sorting_{setting.length}_{setting.core}_{setting.seed}"
    overrides = [f"data.length={setting.length}", f"train.seed={setting.seed}", *arguments.overrides]
    seconds = train(f"text/sorting_{setting.core}", folder, overrides)
    scored = score(folder)
    result = {**vars(setting), "seconds": seconds, "step": scored["step"], **{key: scored[key] for key in COLUMNS}}
    print(json.dumps(result), flush=True)
    return result


def main() -> None:
    parser = make_parser(__doc__, seeds=[1, 2, 3], parallel=1, root="runs/sorting")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 1024, 2048])
    parser.add_argument("--cores", nargs="+", choices=CORES, default=CORES)
    arguments = parser.parse_intermixed_args()
    settings = [Setting(*s) for s in itertools.product(arguments.lengths, arguments.cores, arguments.seeds)]
    with ThreadPoolExecutor(arguments.parallel) as pool:
        results = list(pool.map(lambda setting: run(setting, arguments), settings))
    print(f"\n{'length':>6}  {'core':16}" + "".join(f"{column.replace('_', ' '):>28}" for column in COLUMNS))
    for length, core in itertools.product(arguments.lengths, arguments.cores):
        rows = [result for result in results if (result["length"], result["core"]) == (length, core)]
        cells = [spread([row[column] for row in rows]) for column in COLUMNS]
        print(f"{length:6}  {core:16}" + "".join(f"{cell:>28}" for cell in cells))


def spread(values: list[float]) -> str:
    """The mean and the range of the seeds."""
    return f"{statistics.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


if __name__ == "__main__":
    main()
