"""Evaluating the model of audio of a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from audio.config import ExperimentConfig
from audio.evaluation import Evaluation, corpus_as_trained
from audio.evaluation import evaluate as evaluate_clips
from audio.model import make_model
from lm.corpus import Split
from lm.model import LanguageModel
from reverie.checkpoint import Checkpoint
from reverie.path_interface import Variants
from reverie.tables import evaluate_variants, format_number, names_data, print_table, require_same_data
from training.averaging import evaluation_weights
from training.weights import load_weights


def model_and_validation(config: ExperimentConfig, checkpoint: Checkpoint) -> tuple[LanguageModel, Split]:
    """The model of a checkpoint, and the validation split as it was trained for."""
    corpus = corpus_as_trained(config, checkpoint.fingerprint["quantiser"])
    require_same_data(corpus.sha256, checkpoint, config.data.path)
    model = make_model(corpus.quantiser, config.core, config.model)
    load_weights(model, evaluation_weights(checkpoint.weights, checkpoint.state["trainer"]))
    return model, corpus.splits["validation"]


def evaluate(
    run: Path, checkpoint: Checkpoint, variants: Variants[ExperimentConfig], split: str, as_json: bool
) -> None:
    """Score a split under each variant of a configuration; print a table, or one JSON object a variant."""
    weights = evaluation_weights(checkpoint.weights, checkpoint.state["trainer"])
    for overrides, config in variants:
        if not names_data(overrides):
            sha256 = corpus_as_trained(config, checkpoint.fingerprint["quantiser"]).sha256
            require_same_data(sha256, checkpoint, config.data.path)
            break

    def score(config: ExperimentConfig) -> Evaluation:
        return evaluate_clips(config, checkpoint.fingerprint["quantiser"], weights, split)

    results = evaluate_variants(run, checkpoint.step, variants, score, _figures, as_json)
    if as_json:
        return
    first = results[0][1]
    print(
        f"{run} at step {checkpoint.step:,}, {first.split} split: {first.samples:,} samples in "
        f"{first.clips:,} clips, {first.samples / first.rate:,.1f} s\n"
        f"  {first.quantiser} at {first.rate:,} samples a second, gain {first.gain:.6g}"
    )
    header = ["memory and data", "bits/sample", "nats/sample", "unigram baseline", "bigram baseline (bits/sample)"]
    print_table([header, *([label, *_cells(result)] for label, result in results)])


def _cells(result: Evaluation) -> list[str]:
    bits = (result.bits_per_sample, result.nats_per_sample, *result.baselines)
    return [format_number(value, ".4f") for value in bits]


def _figures(result: Evaluation) -> Mapping[str, Any]:
    figures = dataclasses.asdict(result) | {
        "nats_per_sample": result.nats_per_sample,
        "bits_per_sample": result.bits_per_sample,
    }
    figures["baselines"] = result.baselines._asdict()
    return figures
