"""The duplication task by rounds of hashing, in training and in evaluation (Kitaev et al., 2001.04451, table 2).

    python -m benchmarks.learning.duplication [--lengths 63 255] [--seeds 1] [--root runs/duplication] [KEY=VALUE ...]

A Reformer of one layer is trained on 0w0w with 1, 2 and 4 rounds and with full attention (one bucket that holds the
whole sequence), and each model is scored with full attention and with 8, 4, 2 and 1 rounds: the share of symbols of the
second w that are the likeliest after the right ones before them. The memory is as long as a sequence, with one bucket
for each 16 steps. KEY=VALUE overrides text/duplication_reformer for all runs, which stay under --root.
"""

from __future__ import annotations

import statistics
from pathlib import Path

from benchmarks.command_line import make_parser
from benchmarks.runs import score, train

FULL = 0
"""Stands for full attention in place of a number of rounds."""
TRAINED = (FULL, 4, 2, 1)
EVALUATED = (FULL, 8, 4, 2, 1)
BUCKET = 16
"""Steps for each bucket."""


def attention(rounds: int, sequence: int) -> list[str]:
    """The overrides for a number of rounds."""
    if rounds == FULL:
        return ["core.num_hashes=1", "core.num_buckets=1", f"core.window={sequence}"]
    return [f"core.num_hashes={rounds}", f"core.num_buckets={sequence // BUCKET}", f"core.window={2 * BUCKET}"]


def name(rounds: int) -> str:
    """How a number of rounds is written in the table."""
    return "full" if rounds == FULL else f"LSH-{rounds}"


def main() -> None:
    parser = make_parser(__doc__, seeds=[1], root="runs/duplication")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--lengths", type=int, nargs="+", default=[63, 255], help="symbols of w (default: 63 255)")
    arguments = parser.parse_intermixed_args()
    for length in arguments.lengths:
        sequence = 2 * (length + 1)
        sizes = [f"data.length={length}", f"core.memory_length={sequence}", f"train.segment_length={sequence}"]
        print(f"\n|w| = {length}; symbols right in %, rows as trained, columns as evaluated, mean of {arguments.seeds}")
        print(f"{'':8}" + "".join(f"{name(rounds):>8}" for rounds in EVALUATED) + f"{'seconds':>10}", flush=True)
        for trained in TRAINED:
            shares: dict[int, list[float]] = {rounds: [] for rounds in EVALUATED}
            seconds = []
            for seed in arguments.seeds:
                run = Path(arguments.root) / f"duplication_{length}_{name(trained)}_{seed}"
                chosen = [*sizes, *attention(trained, sequence), f"train.seed={seed}", *arguments.overrides]
                seconds.append(train("text/duplication_reformer", run, chosen))
                for rounds in EVALUATED:
                    found = score(run, *attention(rounds, sequence))
                    shares[rounds].append(100 * found["teacher_forced_symbol_accuracy"])
            cells = "".join(f"{statistics.mean(shares[rounds]):8.1f}" for rounds in EVALUATED)
            print(f"{name(trained):8}{cells}{statistics.mean(seconds):10,.0f}", flush=True)


if __name__ == "__main__":
    main()
