"""Throughput of training each memory core: tokens per CPU-second, forward and backward, with a full memory.

    python -m benchmarks.speed.core_training [--threads N] [--rounds N]

4 layers, steps of depth or attentions (2 cells of the Evolved Transformer), width 256, 4 heads, feed-forward 1024,
memory 256, calls of 8 x 256 steps that carry the state on, without an optimizer. In each round every core is timed once
in float32 and once in bfloat16 autocast, beside the machine's own rate of a matrix product (2048 x 2048 x 2048) in that
round; the table holds medians over the rounds. CPU time is that of all threads.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import torch

import memory_cores
from benchmarks.command_line import make_parser

B, T, D = 8, 256, 256
ATTENTION: dict[str, Any] = {"num_heads": 4, "d_ff": 1024, "memory_length": 256}
CALLS = 3
TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def cores() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """The label, the name and the options of each core."""
    for block, positions in (("post", "relative"), ("post", "rotary"), ("pre", "relative"), ("gtrxl", "relative")):
        options = {"num_layers": 4, "block": block, "positions": positions}
        yield f"transformer_xl {block} {positions}", "transformer_xl", {**ATTENTION, **options}
    slots = {"num_layers": 4, "granularity": T, "compressed_length": 64, "block": "post"}
    yield "compressive post", "compressive", {**ATTENTION, **slots}
    yield "infinity post", "infinity", {**ATTENTION, "num_layers": 4, "granularity": T, "block": "post"}
    for halting in ("none", "graves"):
        yield f"universal post {halting}", "universal", {**ATTENTION, "block": "post", "halting": halting}
    yield "evolved relative", "evolved", {**ATTENTION, "num_layers": 2}
    yield "lstm", "lstm", {"num_layers": 4}


def seconds(call: Callable[[], object], calls: int) -> float:
    """The least CPU time of a call."""
    times = []
    for _ in range(calls):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return min(times)


def tokens_per_second(name: str, options: dict[str, Any], dtype: torch.dtype) -> float:
    """Steps of a core that are run and differentiated in a CPU-second."""
    torch.manual_seed(0)
    core = memory_cores.build(name, d_model=D, **options)
    x, state = torch.randn(B, T, D), core.initial_state(B)

    def call() -> None:
        nonlocal state
        core.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype, enabled=dtype is not torch.float32):
            y, state, losses, _ = core(x, state)
        torch.autograd.backward(sum(losses.values(), y.float().square().mean()))

    call()
    call()
    return B * T / seconds(call, CALLS)


def product_rate(dtype: torch.dtype) -> float:
    """GFLOP/s of a matrix product."""
    a = torch.randn(2048, 2048).to(dtype)
    a @ a
    return 2 * 2048**3 / seconds(lambda: a @ a, CALLS) / 1e9


def main() -> None:
    arguments = make_parser(__doc__, threads=1, rounds=3).parse_args()
    torch.set_num_threads(arguments.threads)
    rates: dict[tuple[str, str], list[float]] = defaultdict(list)
    for _ in range(arguments.rounds):
        for kind, dtype in TYPES.items():
            rates["matrix product, GFLOP/s", kind].append(product_rate(dtype))
            for label, name, options in cores():
                rates[label, kind].append(tokens_per_second(name, options, dtype))
    print(f"torch {torch.__version__}, {arguments.threads} thread(s); tokens per CPU-second, medians\n")
    print(f"{'core':32}" + "".join(f"{kind:>12}" for kind in TYPES))
    for label in dict.fromkeys(label for label, _ in rates):
        print(f"{label:32}" + "".join(f"{statistics.median(rates[label, kind]):12,.0f}" for kind in TYPES))


if __name__ == "__main__":
    main()
