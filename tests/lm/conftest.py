"""Books of synthetic text and experiments on them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from lm.config import DataConfig, ExperimentConfig, ModelConfig, TrainConfig
from tests.lm.synthetic import OPTIONS, Experiment, sentences
from training.config import CoreConfig, RunConfig


@pytest.fixture
def books(tmp_path: Path) -> Path:
    """A folder of books whose lengths no segment divides."""
    root = tmp_path / "books"
    for split, sizes in {"train": (9, 1, 13), "validation": (4, 2, 3), "test": (2,)}.items():
        (root / split).mkdir(parents=True)
        for index, size in enumerate(sizes):
            (root / split / f"{index}.txt").write_text(sentences(size, seed=index + 10 * len(split)))
    return root


@pytest.fixture
def experiment(books: Path, tmp_path: Path) -> Experiment:
    """Makes an experiment on the books; keywords set fields of the train, data and model sections."""

    def make(core: str = "lstm", **fields: object) -> ExperimentConfig:
        def chosen(section: type) -> dict[str, object]:
            names = {item.name for item in dataclasses.fields(section)}
            return {name: value for name, value in fields.items() if name in names}

        data = {"path": str(books), "tokens": "characters", "cache": str(tmp_path / "cache")} | chosen(DataConfig)
        train = {"total_tokens": 10_000, "batch_size": 3, "segment_length": 8} | chosen(TrainConfig)
        return ExperimentConfig(
            data=DataConfig(**data),  # type: ignore[arg-type]
            core=CoreConfig(core, 16, dict(OPTIONS.get(core, {}))),
            model=ModelConfig(**chosen(ModelConfig)),  # type: ignore[arg-type]
            train=TrainConfig(**train),  # type: ignore[arg-type]
            run=RunConfig("run", str(tmp_path)),
        )

    return make
