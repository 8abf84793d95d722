"""Train several next-token models for the same time and score each on the whole validation split.

    python -m benchmarks.learning.equal_time CONFIG [CONFIG ...] [--minutes 30] [--parallel 2] [--root ROOT]
        [--unscored] [KEY=VALUE ...]

A configuration of lm/ or audio/ says how many tokens a run takes, since its learning rate follows them. Here each is
measured first, for --rate-seconds of updates and one evaluation, which gives the number of tokens that fills --minutes
with 10 evaluations in it; then it is trained with `reverie train`, and scored with `reverie evaluate`. --parallel runs
at a time, each with the threads of its configuration; the measurement is made beside the same number of others.
KEY=VALUE overrides all configurations. The table has the seconds that each run did take, evaluations and checkpoints
included, and the bits per byte or sample; for a text also those of bz2 and xz at their highest levels, each file of the
split by itself. All figures of the evaluations are printed above it; the runs stay under --root for `reverie report`.
With --unscored they are only trained: a model that trains on a CPU in half an hour may take as long to be scored, and
`reverie evaluate RUN train.device=cuda` does that elsewhere in seconds.
"""

from __future__ import annotations

import argparse
import bz2
import json
import lzma
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.command_line import make_parser, split_overrides
from benchmarks.runs import printed, score, train

MODULE = "benchmarks.learning.equal_time"
EVALUATIONS = 10
WARM_UP_UPDATES = 2


@dataclass(frozen=True)
class Rate:
    """What one configuration costs here."""

    parameters: int
    tokens: int
    """Of one update."""
    update_seconds: float
    evaluation_seconds: float

    def updates(self, seconds: float) -> int:
        """How many updates fill the time that the evaluations leave."""
        return max(int((seconds - EVALUATIONS * self.evaluation_seconds) / self.update_seconds), EVALUATIONS)


def measure(config: str, overrides: Sequence[str], seconds: float) -> Rate:
    """Train for some seconds without a run folder."""
    import torch

    import agents.config
    from lm.trainer import NextTokenTrainer
    from reverie.experiment import load_experiment
    from reverie.paths import path_of
    from reverie.shipped_configs import find_config
    from training.device import require_device
    from training.held_out import never_stop

    experiment = load_experiment(find_config(config), overrides)
    if isinstance(experiment, agents.config.ExperimentConfig):
        raise SystemExit(f"{config}: trains an agent; expected a model of text or audio")
    torch.set_num_threads(experiment.train.num_threads)
    require_device(experiment.train.device)
    trainer, _ = path_of(experiment).make_trainer(experiment)
    assert isinstance(trainer, NextTokenTrainer)
    for _ in range(WARM_UP_UPDATES):
        trainer.update()
    first, start = trainer.update_count, time.monotonic()
    while time.monotonic() - start < seconds:
        trainer.update()
    update_seconds = (time.monotonic() - start) / (trainer.update_count - first)
    start = time.monotonic()
    trainer.measure(never_stop)
    parameters = sum(parameter.numel() for parameter in trainer.model.parameters())
    tokens = trainer.step_count // trainer.update_count
    return Rate(parameters, tokens, update_seconds, time.monotonic() - start)


def compare(config: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure, train and score one configuration."""
    overrides: list[str] = arguments.overrides
    measured = printed("-m", MODULE, config, "--rate", f"--rate-seconds={arguments.rate_seconds}", *overrides)
    rate = Rate(**json.loads(measured))
    updates = rate.updates(60 * arguments.minutes)
    warm_up = max(updates // 40, 1) * rate.tokens
    name = Path(config).stem
    run = Path(arguments.root) / name
    print(
        f"{name}: {rate.parameters:,} parameters, {rate.update_seconds:.3f} s an update of {rate.tokens:,} tokens, "
        f"{rate.evaluation_seconds:.1f} s an evaluation: {updates:,} updates",
        flush=True,
    )
    length = [
        f"train.total_tokens={updates * rate.tokens}",
        f"train.evaluation_interval={max(updates // EVALUATIONS, 1)}",
        f"train.learning_rate.warmup_tokens={warm_up}",
    ]
    seconds = train(config, run, [*overrides, *length])
    figures = {} if arguments.unscored else score(run)
    return {"name": name, "parameters": rate.parameters, "steps": updates * rate.tokens, "seconds": seconds, **figures}


def compressed_bits(config: str, overrides: Sequence[str]) -> dict[str, float]:
    """Bits per byte of the validation files of a text; of anything else nothing."""
    import lm.config
    from lm.documents import find_documents
    from reverie.experiment import load_experiment
    from reverie.shipped_configs import find_config

    experiment = load_experiment(find_config(config), overrides)
    if not (isinstance(experiment, lm.config.ExperimentConfig) and isinstance(experiment.data, lm.config.DataConfig)):
        return {}
    texts = [document.read() for document in find_documents(experiment.data) if document.split == "validation"]
    size = sum(map(len, texts)) / 8
    return {
        "bz2 -9": sum(len(bz2.compress(text, 9)) for text in texts) / size,
        "xz -9e": sum(len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)) for text in texts) / size,
    }


def main() -> None:
    parser = make_parser(__doc__, parallel=2, root="runs/equal_time")
    parser.add_argument("configs", nargs="+")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--rate-seconds", type=float, default=45.0)
    parser.add_argument("--unscored", action="store_true")
    parser.add_argument("--rate", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_intermixed_args()
    configs, arguments.overrides = split_overrides(arguments.configs)
    if arguments.rate:
        print(json.dumps(vars(measure(configs[0], arguments.overrides, arguments.rate_seconds))))
        return
    with ThreadPoolExecutor(arguments.parallel) as pool:
        results = list(pool.map(lambda config: compare(config, arguments), configs))
    print(json.dumps(results, indent=1))
    print(f"\n{'run':28} {'parameters':>11} {'tokens':>12} {'seconds':>8} {'validation':>11}")
    for result in results:
        bits = next((value for key, value in result.items() if key.startswith("bits_per_")), float("nan"))
        counts = f"{result['parameters']:11,} {result['steps']:12,} {result['seconds']:8.0f}"
        print(f"{result['name']:28} {counts} {bits:11.4f}")
    for name, bits in compressed_bits(configs[0], arguments.overrides).items():
        print(f"{name:28} {'':11} {'':12} {'':8} {bits:11.4f}")


if __name__ == "__main__":
    main()
