"""Evaluating the model of audio of a run."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from audio.config import ExperimentConfig
from audio.evaluation import Evaluation, corpus_as_trained, score
from audio.evaluation import evaluate as evaluate_clips
from audio.model import make_model
from lm.comparison import DocumentScores
from lm.corpus import Split
from lm.model import LanguageModel
from reverie.checkpoint import Checkpoint
from reverie.path_interface import Variants
from reverie.position_curve import draw_positions, print_positions
from reverie.tables import (
    evaluate_variants,
    format_interval,
    format_number,
    names_data,
    print_table,
    require_same_data,
    require_writable,
)
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
    run: Path,
    checkpoint: Checkpoint,
    variants: Variants[ExperimentConfig],
    split: str,
    by_position: Path | None,
    as_json: bool,
) -> None:
    """Score a split under each variant of a configuration; print a table, or one JSON object a variant.

    `by_position` is the PNG of the curve by position in the clip.
    """
    require_writable("--by-position", by_position)
    weights = evaluation_weights(checkpoint.weights, checkpoint.state["trainer"])
    for overrides, config in variants:
        if not names_data(overrides):
            sha256 = corpus_as_trained(config, checkpoint.fingerprint["quantiser"]).sha256
            require_same_data(sha256, checkpoint, config.data.path)
            break

    def evaluate_one(config: ExperimentConfig) -> Evaluation:
        return evaluate_clips(config, checkpoint.fingerprint["quantiser"], weights, split)

    results = evaluate_variants(run, checkpoint.step, variants, evaluate_one, _figures, as_json)
    if not as_json:
        _print_results(f"{run} at step {checkpoint.step:,}", results)
    if by_position is not None:
        curves = [(label, result.positions) for label, result in results]
        if not as_json:
            print_positions(curves, "sample")
        draw_positions(curves, "sample", f"{run} at step {checkpoint.step:,}", by_position)


def document_scores(config: ExperimentConfig, checkpoint: Checkpoint, unit: str, split: str) -> DocumentScores:
    """What each clip of a split costs the model of a checkpoint."""
    trained = checkpoint.fingerprint["quantiser"]
    require_same_data(corpus_as_trained(config, trained).sha256, checkpoint, config.data.path)
    weights = evaluation_weights(checkpoint.weights, checkpoint.state["trainer"])
    _, scored = score(config, trained, weights, split)
    clips = np.split(np.asarray(scored.split.tokens), scored.split.starts[1:])
    return DocumentScores(
        unit=unit,
        names=[f"clip {index}" for index in range(len(clips))],
        contents=[hashlib.sha256(codes.tobytes()).hexdigest() for codes in clips],
        nats=scored.document_nats,
        counts=scored.lengths.astype(np.float64),
    )


def _print_results(title: str, results: Sequence[tuple[str, Evaluation]]) -> None:
    first = results[0][1]
    print(
        f"{title}, {first.split} split: {first.samples:,} samples in "
        f"{first.clips:,} clips, {first.samples / first.rate:,.1f} s\n"
        f"  {first.quantiser} at {first.rate:,} samples a second, gain {first.gain:.6g}"
    )
    header = ["memory and data", "bits/sample", "nats/sample", "unigram baseline", "bigram baseline (bits/sample)"]
    header.append("95 % of bits/sample, over clips")
    print_table([header, *([label, *_cells(result)] for label, result in results)])


def _cells(result: Evaluation) -> list[str]:
    bits = (result.bits_per_sample, result.nats_per_sample, *result.baselines)
    return [*(format_number(value, ".4f") for value in bits), format_interval(result.interval)]


def _figures(result: Evaluation) -> Mapping[str, Any]:
    figures = dataclasses.asdict(result) | {
        "nats_per_sample": result.nats_per_sample,
        "bits_per_sample": result.bits_per_sample,
    }
    figures["baselines"] = result.baselines._asdict()
    return figures
