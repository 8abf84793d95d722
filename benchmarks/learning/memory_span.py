"""What one layer with 32 slots of memory remembers: a T-maze whose cue lies 51 steps before the choice.

    python -m benchmarks.learning.memory_span [--seeds 1 2 3] [--parallel 1] [--root runs/memory_span] [KEY=VALUE ...]

The slots are 32 remembered steps of a Transformer-XL; 16 remembered steps and 16 compressed slots, of 4 steps or of 1
each, of a Compressive Transformer; 8 remembered steps and a signal of 24 basis functions of an infinity-former. One
layer, so that no layer hands the cue on to the next. Each block of 8 steps squeezes the signal of those before to nine
tenths: squeezed to three quarters, a cue of one step is soon narrower than a basis function. Each run is `reverie
train` and `reverie evaluate` over 200 episodes, --parallel at a time; KEY=VALUE overrides all configurations. The runs
stay under --root for `reverie report`.
"""

from __future__ import annotations

import argparse
import itertools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.command_line import make_parser
from benchmarks.runs import score, train

COMMON = ("core.num_layers=1", "agent.learning_rate.initial=1e-3", "agent.learning_rate.final=1e-4")
"""Options of all settings."""
SETTINGS = {
    "infinity": (
        "rl/tmaze_infinity",
        "core.memory_length=8 core.granularity=8 core.tau=0.9 core.num_basis=24 core.narrow_width=0.05 "
        "core.wide_width=0.1",
    ),
    "transformer_xl": ("rl/tmaze_transformer_xl", "core.memory_length=32"),
    "compressive": ("rl/tmaze_compressive", ""),
    "compressive_rate_1": ("rl/tmaze_compressive", "core.compression_rate=1"),
}
"""Configuration, and options that give it 32 slots, by name; what takes longest first."""


def run(name: str, seed: int, arguments: argparse.Namespace) -> str:
    """Train and evaluate one setting; a line on what came of it."""
    config, options = SETTINGS[name]
    folder = Path(arguments.root) / f"{name}_{seed}"
    overrides = [*COMMON, *options.split(), f"train.seed={seed}", *arguments.overrides]
    seconds = train(config, folder, overrides)
    scored = score(folder, "--episodes", "200")
    return (
        f"{name:20} seed {seed}  success {scored['success_rate']:.3f}  mean return {scored['mean_return']:.3f}  "
        f"{scored['step']:,} steps  {seconds:.0f} s"
    )


def main() -> None:
    parser = make_parser(__doc__, seeds=[1, 2, 3], parallel=1, root="runs/memory_span")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    arguments = parser.parse_intermixed_args()
    settings = itertools.product(SETTINGS, arguments.seeds)
    with ThreadPoolExecutor(arguments.parallel) as pool:
        for line in pool.map(lambda setting: run(*setting, arguments), settings):
            print(line, flush=True)


if __name__ == "__main__":
    main()
