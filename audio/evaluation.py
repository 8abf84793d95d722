"""Evaluation: every sample of a split scored once, each clip from an empty memory."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from audio.baselines import Baselines, baselines
from audio.config import ExperimentConfig
from audio.corpus import AudioCorpus, prepare
from audio.model import make_model
from lm.evaluation import total_nats
from training.errors import InputError
from training.weights import load_weights


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
    """Score a split under the gain that the weights were trained with; `trained` is their corpus's `description`.

    Raises InputError if the codes would mean something else, the split is missing, or the weights do not fit.
    """
    corpus = corpus_as_trained(config, trained)
    if split not in corpus.splits:
        raise InputError(f"{config.data.path}: has no {split} split; it has {', '.join(corpus.splits)}")
    model = make_model(corpus.quantiser, config.core, config.model).to(config.train.device)
    load_weights(model, weights)
    scored = corpus.splits[split]
    return Evaluation(
        split=split,
        nats=total_nats(model, scored, config.train.batch_size),
        samples=len(scored.tokens),
        clips=len(scored.starts),
        quantiser=corpus.quantiser.name,
        rate=corpus.rate,
        gain=corpus.gain,
        baselines=baselines(corpus.splits["train"], scored, corpus.quantiser.levels),
    )
