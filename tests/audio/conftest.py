"""A small data set of sounds in two pitches, and experiments on it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile

from audio.config import AudioTrainConfig, DataConfig, ExperimentConfig, ModelConfig
from tests.audio.synthetic import RATE, noise, sine
from tests.lm.synthetic import OPTIONS
from training.config import CoreConfig, RunConfig

Experiment = Callable[..., ExperimentConfig]


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """A folder of clips whose lengths no segment divides; the loudest of train reaches 0.5."""
    root = tmp_path / "clips"
    for split, lengths in {"train": (0.05, 0.021, 0.0301), "validation": (0.04, 0.013), "test": (0.02,)}.items():
        (root / split).mkdir(parents=True)
        for index, seconds in enumerate(lengths):
            tone = sine(440 * (index + 1), seconds, RATE) / (index + 1) + noise(seconds, RATE, index, 0.01) / 10
            soundfile.write(root / split / f"{index}.{'wav' if index % 2 else 'flac'}", tone, RATE)
    return root


@pytest.fixture
def experiment(clips: Path, tmp_path: Path) -> Experiment:
    """Makes an experiment on the clips; keywords set fields of the train, data and model sections."""

    def make(core: str = "lstm", **fields: object) -> ExperimentConfig:
        def chosen(section: type) -> dict[str, object]:
            names = {item.name for item in dataclasses.fields(section)}
            return {name: value for name, value in fields.items() if name in names}

        data = {"path": str(clips), "layout": "folder", "sample_rate": RATE, "cache": str(tmp_path / "cache")}
        train = {"total_tokens": 10_000, "batch_size": 3, "segment_length": 8} | chosen(AudioTrainConfig)
        return ExperimentConfig(
            data=DataConfig(**{**data, **chosen(DataConfig)}),  # type: ignore[arg-type]
            core=CoreConfig(core, 16, dict(OPTIONS.get(core, {}))),
            model=ModelConfig(**chosen(ModelConfig)),  # type: ignore[arg-type]
            train=AudioTrainConfig(**train),  # type: ignore[arg-type]
            run=RunConfig("run", str(tmp_path)),
        )

    return make
