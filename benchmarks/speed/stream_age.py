"""Whether a step of an old stream costs more than one of a young stream, on streams that were stepped all the way.

    python -m benchmarks.speed.stream_age [--cores transformer_xl ...] [--ages 100 10000 1000000] [--threads 1]

One stream of each core, as it is built by default at width 64, float32, is given random inputs. At each age it is timed
in turns with a stream of the same core that is 100 steps old when its turn begins, so that a machine that is slower for
a while is slower for both: the medians of the CPU times of 1,000 steps each, and their ratio.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator

import torch
from torch import Tensor

import memory_cores
from benchmarks.command_line import make_parser
from benchmarks.speed.step_speed import microseconds
from memory_cores import MemoryCore, Stream

CORES = ("lstm", "transformer_xl", "compressive", "infinity", "universal", "evolved", "sparse", "routing", "reformer")
YOUNG = 100
ROUNDS, STEPS = 25, 40


def timed(stream: Stream, inputs: Iterator[Tensor], steps: int) -> list[float]:
    """The CPU times (microseconds) of the next steps of a stream."""
    return microseconds(lambda: stream.step(next(inputs)), steps)


def compared(core: MemoryCore, old: Stream, inputs: Iterator[Tensor]) -> tuple[float, float]:
    """The medians of ROUNDS * STEPS steps of the old stream and of young ones."""
    of_old, of_young = [], []
    for _ in range(ROUNDS):
        young = core.stream(1)
        timed(young, inputs, YOUNG)
        of_young += timed(young, inputs, STEPS)
        of_old += timed(old, inputs, STEPS)
    return statistics.median(of_old), statistics.median(of_young)


@torch.no_grad()
def main() -> None:
    parser = make_parser(__doc__, threads=1)
    parser.add_argument("--cores", nargs="+", choices=CORES, default=CORES)
    parser.add_argument("--ages", nargs="+", type=int, default=[10**2, 10**4, 10**6])
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} thread(s)")
    print(f"{'core':16} {'age':>9} {'microseconds':>13} {'young':>7} {'ratio':>6}")
    for name in arguments.cores:
        core = memory_cores.build(name, d_model=64)
        inputs = itertools.cycle(torch.randn(1009, 1, 64))
        stream, age = core.stream(1), 0
        for target in sorted(arguments.ages):
            for x in itertools.islice(inputs, max(target - age, 0)):
                stream.step(x)
            old, young = compared(core, stream, inputs)
            age = max(target, age) + ROUNDS * STEPS
            print(f"{name:16} {target:9} {old:13.0f} {young:7.0f} {old / young:6.3f}", flush=True)


if __name__ == "__main__":
    main()
