"""How the cost of attention grows with the length of a call: CPU time and peak memory, forward and backward.

    python -m benchmarks.speed.scaling OUTPUT.png [--threads N] [--peers PYTHON] [--json FILE]

4 layers of width 256, 4 heads, feed-forward 1024, plain pre-norm blocks, one row, float32, calls of 1,024 to 32,768
steps from the initial state; the memory is as long as the call. Strides, clusters and windows grow with the square root
of the length; the Reformer has 4 rounds of hashing and one bucket for each 64 steps. "dense" is the same block with
torch's fused causal attention over the whole call. Each cell is a process of its own, which reports the least CPU time
of 2 calls after one to warm up, and the peak of resident memory above that before the call. Exponents are fitted to the
four longest calls. With PYTHON, an interpreter that has them, routing-transformer and reformer-pytorch are measured
too, at their sizes nearest to ours.

The second table shows peak memory at 8,192 steps against the number of layers, with a memory of 256, for routing with
and without reversible layers.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.command_line import make_parser

LENGTHS = (1024, 2048, 4096, 8192, 16384, 32768)
MODELS = ("dense", "sparse strided", "sparse fixed", "routing", "routing reversible", "reformer")
PEERS = ("routing-transformer", "reformer-pytorch")
DEPTHS = (4, 8, 16, 32)
DEPTH_LENGTH = 8192
CALLS = 2
FITTED = 4
"""Longest calls that exponents are fitted to."""
WORKER = Path(__file__).with_name("scaling_worker.py")


class Cell(NamedTuple):
    """One measurement."""

    seconds: float
    """Of CPU time."""
    mebibytes: float
    """Of peak memory."""


def measure(model: str, length: int, threads: int, python: str, layers: int = 4, memory: int | None = None) -> Cell:
    """Run a model in a process of its own; raises CalledProcessError where it fails."""
    arguments = [model, length, threads, CALLS, layers, length if memory is None else memory]
    command = [python, str(WORKER), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(WORKER.parents[2])}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return Cell(*json.loads(done.stdout.splitlines()[-1]))


def exponent(figures: dict[int, float]) -> float:
    """The slope of a line through the longest calls, on logarithmic axes."""
    lengths = sorted(figures)[-FITTED:]
    slope, _ = np.polyfit([math.log(length) for length in lengths], [math.log(figures[n]) for n in lengths], 1)
    return float(slope)


def draw(cells: dict[str, dict[int, Cell]], output: Path) -> None:
    """Time and memory against length, on logarithmic axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.4), dpi=150, layout="constrained")
    for column, (field, unit) in enumerate((("seconds", "CPU seconds a call"), ("mebibytes", "peak MiB of a call")), 1):
        axes = figure.add_subplot(1, 2, column)
        for model, by_length in cells.items():
            values = {length: getattr(cell, field) for length, cell in by_length.items()}
            axes.loglog(
                list(values), list(values.values()), "o-", label=f"{model}: {exponent(values):.2f}", markersize=3
            )
        axes.set_xlabel("steps of a call, and of the memory")
        axes.set_ylabel(unit)
        axes.set_xticks(LENGTHS, [f"{length:,}" for length in LENGTHS])
        axes.minorticks_off()
        axes.legend(frameon=False, title="exponent", fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(output)


def main() -> None:
    parser = make_parser(__doc__, threads=1)
    parser.add_argument("output", type=Path, metavar="OUTPUT.png")
    parser.add_argument(
        "--peers", metavar="PYTHON", help="an interpreter with routing-transformer and reformer-pytorch"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there too")
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS, help="steps of the calls (default: all)")
    arguments = parser.parse_args()
    cells: dict[str, dict[int, Cell]] = {}
    for length in arguments.lengths:
        for model in (*MODELS, *(PEERS if arguments.peers else ())):
            python = arguments.peers if model in PEERS else sys.executable
            cell = measure(model, length, arguments.threads, python)
            cells.setdefault(model, {})[length] = cell
            rate = length / cell.seconds
            print(f"{model:22} {length:7,} {rate:10,.0f} steps/CPU-s {cell.mebibytes:9,.0f} MiB", flush=True)
    depths = {
        model: {
            depth: measure(model, DEPTH_LENGTH, arguments.threads, sys.executable, depth, memory=256).mebibytes
            for depth in DEPTHS
        }
        for model in ("routing", "routing reversible")
    }
    print(f"\n{'layers at ' + format(DEPTH_LENGTH, ',') + ' steps':22}" + "".join(f"{depth:>10}" for depth in DEPTHS))
    for model, by_depth in depths.items():
        print(f"{model:22}" + "".join(f"{size:6,.0f} MiB" for size in by_depth.values()))
    if len(arguments.lengths) > 1:
        print(f"\n{'exponents':22}{'time':>8}{'memory':>8}")
        for model, by_length in cells.items():
            time, memory = (exponent({n: getattr(c, field) for n, c in by_length.items()}) for field in Cell._fields)
            print(f"{model:22}{time:8.2f}{memory:8.2f}")
        draw(cells, arguments.output)
    if arguments.json is not None:
        content: dict[str, Any] = {"cells": cells, "depths": depths, "threads": arguments.threads}
        arguments.json.write_text(json.dumps(content, indent=1))


if __name__ == "__main__":
    main()
