"""Evaluating the language model of a run, on a text or on a synthetic task."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lm.answers import Answers, evaluate_task
from lm.config import ExperimentConfig, TaskConfig
from lm.corpus import Split, prepare
from lm.evaluation import Evaluation
from lm.evaluation import evaluate as evaluate_text
from lm.model import LanguageModel
from lm.tasks import task_corpus
from lm.text_model import make_model
from lm.vocabularies import vocabulary_from
from reverie.checkpoint import Checkpoint
from reverie.path_interface import Variants
from reverie.tables import evaluate_variants, format_number, names_data, print_table, require_same_data
from training.averaging import evaluation_weights
from training.errors import UserError
from training.weights import load_weights


def model_and_validation(config: ExperimentConfig, checkpoint: Checkpoint) -> tuple[LanguageModel, Split]:
    """The model of a checkpoint, and the validation split in the token numbers that it was trained with."""
    vocabulary = vocabulary_from(checkpoint.fingerprint["vocabulary"])
    model = make_model(vocabulary.size, config.core, config.model)
    load_weights(model, evaluation_weights(checkpoint.weights, checkpoint.state["trainer"]))
    if isinstance(config.data, TaskConfig):
        return model, task_corpus(config.data, model.core.period).splits["validation"]
    corpus = prepare(config.data, vocabulary)
    require_same_data(corpus.sha256, checkpoint, config.data.path)
    return model, corpus.splits["validation"]


def evaluate(
    run: Path,
    checkpoint: Checkpoint,
    variants: Variants[ExperimentConfig],
    split: str,
    by_frequency: bool,
    as_json: bool,
) -> None:
    """Score a split under each variant of a configuration; print a table, or with `as_json` one JSON object a variant.

    `by_frequency` adds the perplexity of words by their frequency in the train split.
    """
    vocabulary = vocabulary_from(checkpoint.fingerprint["vocabulary"])
    weights = evaluation_weights(checkpoint.weights, checkpoint.state["trainer"])
    for overrides, config in variants:
        if not names_data(overrides) and not isinstance(config.data, TaskConfig):
            require_same_data(prepare(config.data, vocabulary).sha256, checkpoint, config.data.path)
            break

    def score(config: ExperimentConfig) -> Evaluation | Answers:
        if not isinstance(config.data, TaskConfig):
            return evaluate_text(config, vocabulary, weights, split, by_frequency)
        if by_frequency:
            raise UserError("--by-frequency: for text only; a task has no words")
        return evaluate_task(config, weights, split)

    results = evaluate_variants(run, checkpoint.step, variants, score, _figures, as_json)
    if not as_json:
        _print_results(f"{run} at step {checkpoint.step:,}", results)


def _figures(result: Evaluation | Answers) -> dict[str, Any]:
    if isinstance(result, Answers):
        return dataclasses.asdict(result)
    perplexity = result.word_perplexity
    return dataclasses.asdict(result) | {
        "nats_per_token": result.nats_per_token,
        "bits_per_byte": result.bits_per_byte,
        "bits_per_character": result.bits_per_character,
        "word_perplexity": perplexity if perplexity is not None and math.isfinite(perplexity) else None,
    }


def _print_results(title: str, results: Sequence[tuple[str, Evaluation | Answers]]) -> None:
    first = results[0][1]
    if isinstance(first, Answers):
        print(f"{title}, {first.split} split: {first.sequences:,} sequences")
        header = [
            "memory and data",
            "nats/symbol",
            "symbols, generated",
            "sequences, generated",
            "symbols, teacher-forced",
            "sequences, teacher-forced",
        ]
    else:
        bytes_counted = "" if first.num_bytes is None else f"{first.num_bytes:,} bytes, "
        words_counted = (
            f"{first.num_words:,} words ({first.words_from})" if first.num_words else "no words, so no word perplexity"
        )
        print(f"{title}, {first.split} split: {first.tokens:,} tokens, {bytes_counted}{words_counted}")
        header = ["memory and data", "nats/token", "bits/byte", "bits/character", "perplexity/word"]
    print_table([header, *([label, *_cells(result)] for label, result in results)])
    for label, result in results:
        if isinstance(result, Evaluation) and result.buckets is not None:
            print(f"by count in the train split, {label}")
            rows = [[b.frequency, f"{b.words:,}", format_number(b.perplexity, ".6g")] for b in result.buckets]
            print_table([["count", "words", "perplexity/word"], *rows])


def _cells(result: Evaluation | Answers) -> list[str]:
    if isinstance(result, Answers):
        shares = (
            result.generated_symbol_accuracy,
            result.generated_sequence_accuracy,
            result.teacher_forced_symbol_accuracy,
            result.teacher_forced_sequence_accuracy,
        )
        return [f"{result.nats_per_symbol:.4f}", *(format_number(share, ".4f") for share in shares)]
    bits = (result.nats_per_token, result.bits_per_byte, result.bits_per_character)
    return [*(format_number(value, ".4f") for value in bits), format_number(result.word_perplexity, ".6g")]
