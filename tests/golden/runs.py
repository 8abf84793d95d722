"""The golden runs: twelve updates of every core on each path, whose losses no refactoring may change.

A change that means to alter numerics writes `losses.json` anew and says why in its commit:

    python -m tests.golden.runs
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import soundfile
import torch

import agents.config
import audio.config
import audio.trainer
import lm.config
import lm.trainer
from agents.trainer import ImpalaTrainer
from tests.audio.synthetic import RATE, noise, sine
from tests.lm.synthetic import sentences
from training.config import CoreConfig, RunConfig

LOSSES = Path(__file__).with_name("losses.json")
UPDATES = 12
D_MODEL = 16
SMALL = {"num_layers": 2, "num_heads": 2, "d_ff": 24}

# The first variant of a core runs on all paths, the others on text alone.
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "compressive": [
        {**SMALL, "memory_length": 6, "compressed_length": 4, "compression_rate": 2},
        {**SMALL, "memory_length": 5, "compressed_length": 3, "compression_rate": 2, "granularity": 4}
        | {
            "compression": "dilated_conv",
            "compression_loss": "auto_encoding",
            "block": "trxl_i",
            "positions": "rotary",
        },
        {**SMALL, "memory_length": 4, "compressed_length": 3, "compression_rate": 2, "block": "post"}
        | {"compression_loss": "bptt", "granularity": 4},
        {**SMALL, "memory_length": 4, "compressed_length": 3, "compression_rate": 2, "granularity": 4}
        | {"compression": "most_used"},
        {**SMALL, "memory_length": 4, "compressed_length": 3, "compression_rate": 4, "compression": "mean"},
        {**SMALL, "memory_length": 4, "compressed_length": 3, "compression_rate": 4, "compression": "max"},
    ],
    "evolved": [
        {**SMALL, "num_layers": 1, "memory_length": 8},
        {**SMALL, "memory_length": 6, "granularity": 4, "positions": "rotary", "dropout": 0.1},
    ],
    "feedforward": [{"num_layers": 2, "d_ff": 24}],
    "infinity": [
        {**SMALL, "memory_length": 4, "granularity": 2, "num_basis": 8, "num_samples": 16, "wide_width": 0.2}
        | {"sticky": True},
        {**SMALL, "memory_length": 4, "granularity": 4, "num_basis": 8, "num_samples": 16, "wide_width": 0.2}
        | {"block": "post", "positions": "rotary", "mask": True, "mu0": 0.5, "kl_weight": 0.1},
    ],
    "lstm": [{"num_layers": 2}, {"halting": "graves", "max_ponder_steps": 3}],
    "reformer": [{**SMALL, "memory_length": 12, "num_buckets": 2, "window": 6}],
    "routing": [{**SMALL, "memory_length": 12, "local_heads": 1, "num_clusters": 2, "window": 6, "local_window": 4}],
    "sparse": [
        {**SMALL, "memory_length": 12, "stride": 4},
        {**SMALL, "memory_length": 12, "stride": 4, "pattern": "fixed", "combination": "split", "block": "pre"},
    ],
    "transformer_xl": [
        {**SMALL, "memory_length": 12},
        {**SMALL, "memory_length": 8, "granularity": 4, "block": "trxl_i", "positions": "rotary"},
        {**SMALL, "memory_length": 8, "block": "post"},
        {**SMALL, "memory_length": 8, "block": "post", "positions": "rotary", "dropout": 0.1},
    ],
    "universal": [
        {"num_heads": 2, "d_ff": 24, "max_ponder_steps": 3, "memory_length": 8},
        {"num_heads": 2, "d_ff": 24, "max_ponder_steps": 3, "memory_length": 4, "granularity": 4, "block": "post"}
        | {"transition": "convolution", "positions": "rotary", "depth_signal": "learned"},
        {"num_heads": 2, "d_ff": 24, "max_ponder_steps": 2, "memory_length": 8, "block": "trxl_i", "halting": "none"},
    ],
    "wavenet": [{"num_blocks": 2, "layers_per_block": 3}],
}


def agent_losses(core: str, options: dict[str, Any], folder: Path) -> list[float]:
    """An agent in a short maze, in one process."""
    config = agents.config.ExperimentConfig(
        env=agents.config.EnvConfig("envs:TMaze-v0", {"length": 4}),
        core=CoreConfig(core, D_MODEL, options),
        agent=agents.config.AgentConfig(
            num_actors=0, envs_per_actor=4, batch_size=4, unroll_length=8, encoder_width=16
        ),
        train=agents.config.TrainConfig(total_steps=10_000),
        run=RunConfig("golden", str(folder)),
    )
    return losses(ImpalaTrainer(config).update)


def text_losses(core: str, options: dict[str, Any], folder: Path) -> list[float]:
    """A model of characters."""
    text = folder / "text.txt"
    text.write_text(sentences(200))
    config = lm.config.ExperimentConfig(
        data=lm.config.DataConfig(str(text), "characters", cache=str(folder / "cache")),
        core=CoreConfig(core, D_MODEL, options),
        train=lm.config.TrainConfig(total_tokens=10_000, batch_size=3, segment_length=8),
        run=RunConfig("golden", str(folder)),
    )
    return losses(lm.trainer.make_trainer(config).update)


def audio_losses(core: str, options: dict[str, Any], folder: Path) -> list[float]:
    """A model of sound in mu-law codes."""
    clips = folder / "clips"
    for split, lengths in {"train": (0.05, 0.021, 0.0301), "validation": (0.04,)}.items():
        (clips / split).mkdir(parents=True, exist_ok=True)
        for index, seconds in enumerate(lengths):
            tone = sine(440 * (index + 1), seconds, RATE) + noise(seconds, RATE, index, 0.01)
            soundfile.write(clips / split / f"{index}.wav", tone, RATE)
    config = audio.config.ExperimentConfig(
        data=audio.config.DataConfig(str(clips), "folder", RATE, cache=str(folder / "cache")),
        core=CoreConfig(core, D_MODEL, options),
        train=audio.config.AudioTrainConfig(total_tokens=10_000, batch_size=3, segment_length=8),
        run=RunConfig("golden", str(folder)),
    )
    return losses(audio.trainer.make_trainer(config).update)


def losses(update: Callable[[], dict[str, float]]) -> list[float]:
    """The losses of the golden updates."""
    return [update()["loss/total"] for _ in range(UPDATES)]


PATHS = {"agent": agent_losses, "text": text_losses, "audio": audio_losses}
RUNS = [
    (path, core, variant)
    for core, variants in VARIANTS.items()
    for variant in range(len(variants))
    for path in PATHS
    if variant == 0 or path == "text"
]


def run_name(path: str, core: str, variant: int) -> str:
    """The key of a run in `losses.json`."""
    return f"{path} {core} {variant}"


def run(path: str, core: str, variant: int, folder: Path) -> list[float]:
    """The losses of one golden run, whose data lies in `folder`."""
    return PATHS[path](core, VARIANTS[core][variant], folder)


def main() -> None:
    """Write the losses of all runs."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        golden = {run_name(*key): run(*key, Path(folder)) for key in RUNS}
    lines = [f"{json.dumps(name)}: {json.dumps(values)}" for name, values in sorted(golden.items())]
    LOSSES.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
