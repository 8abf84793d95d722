"""The trainer of an audio experiment: `lm`'s, over a corpus of clips."""

from __future__ import annotations

import math
from typing import Any

import torch

from audio.baselines import baselines
from audio.config import ExperimentConfig
from audio.corpus import AudioCorpus, prepare
from audio.model import make_model
from lm.evaluation import total_nats
from lm.model import LanguageModel
from lm.trainer import NextTokenTrainer, Validate
from training.held_out import Check

SCORE = "validation/bits_per_sample"
"""The metric by which the best checkpoint is chosen."""


def make_trainer(config: ExperimentConfig, corpus: AudioCorpus | None = None) -> NextTokenTrainer:
    """The trainer of an experiment; raises InputError for clips that cannot be used or are too few."""
    torch.set_num_threads(config.train.num_threads)
    torch.manual_seed(config.train.seed)
    corpus = corpus or prepare(config.data)
    return NextTokenTrainer(
        config.train,
        make_model(corpus.quantiser, config.core, config.model),
        corpus.splits["train"],
        make_validate(config, corpus),
        SCORE,
        identity(config) | {"quantiser": corpus.description(), "data": {"sha256": corpus.sha256}},
    )


def identity(config: ExperimentConfig) -> dict[str, Any]:
    """What the configuration alone says of a model's weights: a checkpoint's fingerprint has it too."""
    mixtures = {"mixtures": config.model.mixtures} if config.data.quantiser == "logistic_16" else {}
    return {
        "path": "audio",
        "core": {"name": config.core.name, "d_model": config.core.d_model, **config.core.options},
        "model": mixtures or {"tie_embeddings": config.model.tie_embeddings},
    }


def make_validate(config: ExperimentConfig, corpus: AudioCorpus) -> Validate:
    """Scores a model on the validation split, and reports the baselines with it."""
    train, split = config.train, corpus.splits["validation"]
    samples = min(train.evaluation_tokens or len(split.tokens), len(split.tokens))
    table = baselines(corpus.splits["train"], split, corpus.quantiser.levels, samples)
    constant = {"baseline/unigram_bits_per_sample": table.unigram}
    if table.bigram is not None:
        constant["baseline/bigram_bits_per_sample"] = table.bigram

    def validate(model: LanguageModel, check: Check) -> dict[str, float]:
        nats = total_nats(model, split, train.batch_size, limit=samples, check=check) / samples
        return {
            "validation/nats_per_sample": nats,
            SCORE: nats / math.log(2),
            **constant,
        }

    return validate
