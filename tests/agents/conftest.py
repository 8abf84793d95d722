"""Small experiments and the cores they run on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from agents.config import AgentConfig, EnvConfig, ExperimentConfig, TrainConfig
from training.config import CoreConfig, RunConfig

SMALL_CORES: dict[str, dict[str, Any]] = {
    "compressive": {
        "num_layers": 2,
        "num_heads": 2,
        "memory_length": 6,
        "compressed_length": 4,
        "compression_rate": 2,
    },
    "evolved": {"num_layers": 1, "num_heads": 2, "memory_length": 12},
    "infinity": {
        "num_layers": 1,
        "num_heads": 2,
        "memory_length": 4,
        "granularity": 2,
        "num_basis": 8,
        "num_samples": 16,
        "wide_width": 0.2,
        "sticky": True,
    },
    "reformer": {"num_layers": 1, "num_heads": 2, "memory_length": 12, "num_buckets": 2, "window": 6},
    "routing": {"num_layers": 1, "num_heads": 2, "local_heads": 1, "memory_length": 12, "num_clusters": 2}
    | {"window": 6, "local_window": 4},
    "sparse": {"num_layers": 1, "num_heads": 2, "memory_length": 12, "stride": 4},
    "transformer_xl": {"num_layers": 2, "num_heads": 2, "memory_length": 12},
    "universal": {"num_heads": 2, "max_ponder_steps": 3, "memory_length": 12},
    "wavenet": {"layers_per_block": 3},
}
"""Options that keep a core small; cores without an entry are built with their defaults."""

TRAIN_FIELDS = ("total_steps", "seed", "evaluation_interval", "evaluation_episodes")


@pytest.fixture
def make_config() -> Callable[..., ExperimentConfig]:
    """Build an experiment on `env_id` with a narrow core; keywords go to the sections agent and train by name."""

    def build(
        env_id: str, core: str = "lstm", env_kwargs: dict[str, Any] | None = None, **fields: Any
    ) -> ExperimentConfig:
        train = {name: fields.pop(name) for name in TRAIN_FIELDS if name in fields}
        agent = {
            "num_actors": 0,
            "envs_per_actor": 4,
            "batch_size": 4,
            "unroll_length": 8,
            "encoder_width": 16,
        }
        return ExperimentConfig(
            env=EnvConfig(env_id, env_kwargs or {}),
            core=CoreConfig(core, 16, SMALL_CORES.get(core, {})),
            agent=AgentConfig(**{**agent, **fields}),
            train=TrainConfig(**{"total_steps": 10_000, **train}),
            run=RunConfig("test"),
        )

    return build
