"""Evaluation: every sample of a split scored once, each clip from an empty memory."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from audio.baselines import Baselines, baselines
from audio.config import ExperimentConfig
from audio.corpus import AudioCorpus, prepare
from audio.model import make_model
from lm.evaluation import token_nats
from lm.scored import PositionBucket, ScoredSplit, in_unit, ratio_interval
from training.errors import InputError
from training.weights import load_weights

UNIT = "bits per sample"
"""In which clips are measured."""


@dataclass(frozen=True)
class Evaluation:
    """How well a model predicts a split, with what the figures depend on."""

    split: str
    nats: float
    """- log p of the whole split."""
    samples: int
    clips: int
    quantiser: str
    rate: int
    gain: float
    baselines: Baselines
    interval: tuple[float, float] | None
    """95 % interval of bits per sample, by a bootstrap over clips; None for a single clip."""
    positions: list[PositionBucket]
    """Nats per sample by position in the clip."""

    @property
    def nats_per_sample(self) -> float:
        return self.nats / self.samples

    @property
    def bits_per_sample(self) -> float:
        return self.nats_per_sample / math.log(2)


def corpus_as_trained(config: ExperimentConfig, trained: Mapping[str, Any]) -> AudioCorpus:
    """The corpus of a configuration under the gain that weights were trained with; `trained` is its `description`.

    Raises InputError if the codes would mean something else.
    """
    asked = {"name": config.data.quantiser, "rate": config.data.sample_rate}
    for name, value in asked.items():
        if trained[name] != value:
            raise InputError(f"the model was trained with {name} {trained[name]}, the configuration asks for {value}")
    corpus = prepare(config.data)
    return corpus if corpus.gain == trained["gain"] else prepare(config.data, float(trained["gain"]))


def evaluate(
    config: ExperimentConfig, trained: Mapping[str, Any], weights: Mapping[str, Tensor], split: str = "validation"
) -> Evaluation:
    """Score a split under the gain that the weights were trained with, as `score` does, and give its figures."""
    corpus, scored = score(config, trained, weights, split)
    return Evaluation(
        split=split,
        nats=float(scored.nats.sum()),
        samples=len(scored.nats),
        clips=len(scored.lengths),
        quantiser=corpus.quantiser.name,
        rate=corpus.rate,
        gain=corpus.gain,
        baselines=baselines(corpus.splits["train"], scored.split, corpus.quantiser.levels),
        interval=ratio_interval(in_unit(scored.document_nats, UNIT), scored.lengths.astype(np.float64)),
        positions=scored.by_position(),
    )


def score(
    config: ExperimentConfig, trained: Mapping[str, Any], weights: Mapping[str, Tensor], split: str = "validation"
) -> tuple[AudioCorpus, ScoredSplit]:
    """The corpus of a configuration, and what every sample of a split costs; `trained` is the model's `description`.

    Raises InputError if the codes would mean something else, the split is missing, or the weights do not fit.
    """
    corpus = corpus_as_trained(config, trained)
    if split not in corpus.splits:
        raise InputError(f"{config.data.path}: has no {split} split; it has {', '.join(corpus.splits)}")
    model = make_model(corpus.quantiser, config.core, config.model).to(config.train.device)
    load_weights(model, weights)
    scored = corpus.splits[split]
    return corpus, ScoredSplit(scored, token_nats(model, scored, config.train.batch_size))
