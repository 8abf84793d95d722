"""Synthetic text, and the options of the cores that train on it."""

from __future__ import annotations

import random
from collections.abc import Callable

from lm.config import ExperimentConfig
from training.held_out import Stopped, never_stop
from training.trainer import Trainer

Experiment = Callable[..., ExperimentConfig]

OPTIONS: dict[str, dict[str, object]] = {
    "compressive": {
        "memory_length": 8,
        "granularity": 4,
        "num_heads": 2,
        "compressed_length": 4,
        "compression_rate": 2,
    },
    "infinity": {"memory_length": 8, "granularity": 4, "num_heads": 2, "num_basis": 8, "num_samples": 16},
    "evolved": {"memory_length": 8, "granularity": 4, "num_heads": 2, "num_layers": 1},
    "reformer": {"memory_length": 8, "num_heads": 2, "num_buckets": 2, "window": 4},
    "routing": {"memory_length": 8, "num_heads": 2, "local_heads": 1, "num_clusters": 2}
    | {"window": 4, "local_window": 4},
    "sparse": {"memory_length": 8, "num_heads": 2, "stride": 4, "pattern": "fixed"},
    "transformer_xl": {"memory_length": 8, "granularity": 4, "num_heads": 2},
    "universal": {"memory_length": 8, "granularity": 4, "num_heads": 2, "max_ponder_steps": 3},
    "wavenet": {"layers_per_block": 4},
}
"""Options that keep a core small and put a schedule of more than one step into those that have one."""


def sentences(count: int, seed: int = 0) -> str:
    """Text with something to learn, and a character that takes three bytes."""
    generator = random.Random(seed)
    words = ["the", "maze", "remembers", "every", "turn", "—", "cue", "nothing"]
    return "".join(" ".join(generator.choices(words, k=5)) + ".\n" for _ in range(count))


def update_and_evaluate(trainer: Trainer) -> dict[str, float]:
    """The metrics of an update, with those of the evaluation where one is due after it."""
    metrics = trainer.update()
    held_out = trainer.held_out
    assert held_out is not None
    return metrics if trainer.update_count % held_out.interval else metrics | held_out.measure(never_stop)


class StopAt:
    """A check that stops at its `last` call."""

    def __init__(self, last: int) -> None:
        self.calls, self.last = 0, last

    def __call__(self) -> None:
        self.calls += 1
        if self.calls >= self.last:
            raise Stopped
