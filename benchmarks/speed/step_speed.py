"""Time one step of a stream of the Transformers with memory against a call of `forward` with T = 1, which projects its
memory anew.

    python -m benchmarks.speed.step_speed [--threads N]

The first table is batch 1, 4 layers, steps of depth or attentions (2 cells of the Evolved Transformer), width 256, 4
heads, feed-forward 1024, memory 256, float32, in eager mode, of a stream 100 steps old and of one that begins with a
full memory; both are stepped for more than twice the memory's capacity, so that their buffers slide within the measured
steps (stream_age.py beside this file steps streams a million times). The long-term memory of an infinity-former is
empty at age 100 and refitted once in 16 steps; the Universal Transformer runs all its depth ("none") or halts as its
untrained halting unit says ("graves"). The second table is an actor's shape, batch 32, width 64, 2 layers, with resets
in one row of a hundred.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, get_args

import torch

import memory_cores
from benchmarks.command_line import make_parser
from memory_cores import MemoryCore, State
from memory_cores.attention.block import BlockKind

SHAPE: dict[str, Any] = {"d_model": 256, "num_heads": 4, "d_ff": 1024, "memory_length": 256}
AGES = (100, 3 * SHAPE["memory_length"])
"""Steps of a stream before it is timed: few, and as many as leave a trace in any core."""
FORWARD_CALLS = 60


def microseconds(call: Callable[[], object], calls: int) -> list[float]:
    """The CPU time of each of several calls, which a busy machine does not change much."""
    times = []
    for _ in range(calls):
        start = time.process_time()
        call()
        times.append(1e6 * (time.process_time() - start))
    return times


def state_at(core: MemoryCore, age: int) -> State:
    """The state of one stream after `age` steps."""
    return core(torch.randn(1, age, core.d_model), core.initial_state(1)).state


def cached_step(core: MemoryCore, state: State) -> list[float]:
    """The times of the steps of a stream that starts from `state`."""
    stream = core.stream(1)
    stream.load(state)
    x = torch.randn(1, core.d_model)
    microseconds(lambda: stream.step(x), 10)
    return microseconds(lambda: stream.step(x), 2 * SHAPE["memory_length"] + 50)


def forward_step(core: MemoryCore, state: State) -> list[float]:
    """The times of calls of one step each that carry the state on."""

    def call() -> None:
        nonlocal state
        state = core(x, state).state

    x = torch.randn(1, 1, core.d_model)
    microseconds(call, 5)
    return microseconds(call, FORWARD_CALLS)


def spread(times: list[float]) -> str:
    """The median, the fastest and the slowest."""
    return f"{statistics.median(times):.0f} ({min(times):.0f} to {max(times):.0f})"


def actor_step(core: MemoryCore, batch_size: int) -> tuple[float, float]:
    """The median times of a step of many rows, without resets and with a reset in every hundredth row."""
    stream = core.stream(batch_size)
    x = torch.randn(batch_size, core.d_model)
    reset = torch.rand(600, batch_size) < 0.01
    rows = iter(reset)
    for _ in range(150):
        stream.step(x)
    plain = microseconds(lambda: stream.step(x), 300)
    with_resets = microseconds(lambda: stream.step(x, next(rows)), len(reset))
    return statistics.median(plain), statistics.median(with_resets)


def timed() -> Iterator[tuple[str, dict[str, Any]]]:
    """The cores of the first table and their options."""
    for block, positions in itertools.product(get_args(BlockKind), ("relative", "rotary")):
        yield "transformer_xl", {"block": block, "positions": positions, "num_layers": 4}
    for name, block in itertools.product(("compressive", "infinity"), ("post", "gtrxl")):
        yield name, {"block": block, "num_layers": 4}
    for block, halting in itertools.product(("post", "gtrxl"), ("none", "graves")):
        yield "universal", {"block": block, "halting": halting, "max_ponder_steps": 4}
    for positions in ("relative", "rotary"):
        yield "evolved", {"positions": positions, "num_layers": 2}


@torch.no_grad()
def main() -> None:
    parser = make_parser(__doc__, threads=1)
    torch.set_num_threads(parser.parse_args().threads)
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} thread(s)")
    print("microseconds of CPU time: median (fastest to slowest)\n")
    print(f"{'core':30} {'age':>8}   {'step':20} {'forward':20} {'ratio':>6}")
    for name, options in timed():
        core = memory_cores.build(name, **options, **SHAPE)
        label = " ".join([name, *(str(value) for value in options.values() if isinstance(value, str))])
        for age in AGES:
            state = state_at(core, age)
            steps, calls = cached_step(core, state), forward_step(core, state)
            step, call = statistics.median(steps), statistics.median(calls)
            times = f"{spread(steps):20} {spread(calls):20} {call / step:6.1f}"
            print(f"{label:30} {age:8}   {times}", flush=True)

    print(f"\n{'batch 32, width 64':50} {'step':>7} {'with resets':>12}")
    gated = itertools.product(("transformer_xl", "infinity"), ("post", "gtrxl"), ("relative", "rotary"))
    for name, *options in [("feedforward",), ("lstm",), *gated]:
        keywords = {"block": options[0], "positions": options[1]} if options else {}
        plain, with_resets = actor_step(memory_cores.build(name, d_model=64, **keywords), 32)
        print(f"{' '.join([name, *options]):50} {plain:7.0f} {with_resets:12.0f}", flush=True)


if __name__ == "__main__":
    main()
