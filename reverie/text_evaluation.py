"""Evaluating the language model of a run, on a text or on a synthetic task."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lm.answers import Answers, evaluate_task
from lm.comparison import DocumentScores
from lm.config import ExperimentConfig, TaskConfig
from lm.corpus import Split, prepare
from lm.evaluation import Evaluation, score, summarise
from lm.loose_texts import Text
from lm.model import LanguageModel
from lm.scored import document_units, unit_of
from lm.tasks import task_corpus
from lm.text_model import make_model
from lm.token_table import write_token_table
from lm.vocabularies import vocabulary_from
from lm.words import WordVocabulary
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
from training.errors import UserError
from training.weights import load_weights

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wanted:
    """What is asked of an evaluation of a text."""

    split: str = "validation"
    texts: Sequence[Text] | None = None
    """Documents to score in place of the split."""
    by_frequency: bool = False
    """Whether to give the perplexity of words by their frequency in the train split."""
    by_position: Path | None = None
    """The PNG of the curve by position in the document."""
    per_token: Path | None = None
    """The file of the cost of each token."""

    def flags(self) -> list[str]:
        """The options of the command line that a synthetic task does not take, as far as they are given."""
        given = {
            "--text": self.texts is not None,
            "--by-frequency": self.by_frequency,
            "--by-position": self.by_position is not None,
            "--per-token": self.per_token is not None,
        }
        return [flag for flag, is_given in given.items() if is_given]


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
    run: Path, checkpoint: Checkpoint, variants: Variants[ExperimentConfig], wanted: Wanted, as_json: bool
) -> None:
    """Score a text under each variant of a configuration; print a table, or with `as_json` one JSON object a variant.

    Raises UserError where what is wanted does not go with a task, with several variants, or with their overrides.
    """
    vocabulary = vocabulary_from(checkpoint.fingerprint["vocabulary"])
    weights = evaluation_weights(checkpoint.weights, checkpoint.state["trainer"])
    _check(wanted, variants)
    _warn_of_cut_files(wanted, variants)
    for overrides, config in variants:
        reads_data = wanted.texts is None or wanted.by_frequency
        if reads_data and not names_data(overrides) and not isinstance(config.data, TaskConfig):
            require_same_data(prepare(config.data, vocabulary).sha256, checkpoint, config.data.path)
            break

    def evaluate_one(config: ExperimentConfig) -> Evaluation | Answers:
        if isinstance(config.data, TaskConfig):
            return evaluate_task(config, weights, wanted.split)
        scored = score(config, vocabulary, weights, wanted.split, wanted.texts)
        if wanted.per_token is not None:
            write_token_table(wanted.per_token, scored, vocabulary)
        return summarise(scored, config, vocabulary, wanted.by_frequency)

    results = evaluate_variants(run, checkpoint.step, variants, evaluate_one, _figures, as_json)
    title = f"{run} at step {checkpoint.step:,}"
    if not as_json:
        _print_results(title, results)
    if wanted.by_position is not None:
        curves = [(label, result.positions) for label, result in results if isinstance(result, Evaluation)]
        if not as_json:
            print_positions(curves, "token")
        draw_positions(curves, "token", title, wanted.by_position)


def unit(run: Path, config: ExperimentConfig, checkpoint: Checkpoint) -> str:
    """The unit in which a text is measured, with the words that its tokens are; raises UserError for a task."""
    if isinstance(config.data, TaskConfig):
        raise UserError(f"{run}: answers {config.data.task}, a synthetic task; only models of texts are compared")
    vocabulary = vocabulary_from(checkpoint.fingerprint["vocabulary"])
    if not isinstance(vocabulary, WordVocabulary):
        return unit_of(vocabulary)
    digest = hashlib.sha256("\n".join(vocabulary.words).encode()).hexdigest()
    return f"{unit_of(vocabulary)} ({vocabulary.size:,} words, SHA-256 {digest[:12]}...)"


def document_scores(
    config: ExperimentConfig, checkpoint: Checkpoint, unit: str, split: str, texts: Sequence[Text] | None
) -> DocumentScores:
    """What each document of a split, or each of `texts`, costs the model of a checkpoint."""
    assert not isinstance(config.data, TaskConfig)
    vocabulary = vocabulary_from(checkpoint.fingerprint["vocabulary"])
    if texts is None:
        require_same_data(prepare(config.data, vocabulary).sha256, checkpoint, config.data.path)
    weights = evaluation_weights(checkpoint.weights, checkpoint.state["trainer"])
    scored = score(config, vocabulary, weights, split, texts)
    documents = np.split(np.asarray(scored.split.tokens), scored.split.starts[1:])
    return DocumentScores(
        unit=unit,
        names=[text.name for text in texts] if texts else [f"document {index}" for index in range(len(documents))],
        contents=[hashlib.sha256(vocabulary.decode(tokens)).hexdigest() for tokens in documents],
        nats=scored.document_nats,
        counts=document_units(scored, vocabulary),
    )


def _check(wanted: Wanted, variants: Variants[ExperimentConfig]) -> None:
    """Raise UserError where what is wanted cannot be had of these variants, before the first is scored."""
    if wanted.flags() and any(isinstance(config.data, TaskConfig) for _, config in variants):
        raise UserError(f"{', '.join(wanted.flags())}: for texts only; a synthetic task has no words and no documents")
    require_writable("--by-position", wanted.by_position)
    require_writable("--per-token", wanted.per_token)
    if wanted.per_token is not None and len(variants) > 1:
        raise UserError(f"--per-token: is for one evaluation, the overrides ask for {len(variants)}")
    for overrides, _ in variants:
        if wanted.texts is not None and names_data(overrides) and not wanted.by_frequency:
            raise UserError(f"{' '.join(overrides)}: changes nothing where --text names what is scored")


def _warn_of_cut_files(wanted: Wanted, variants: Variants[ExperimentConfig]) -> None:
    """Say where an override names a file of which only a part will be scored."""
    for overrides, config in variants:
        path = getattr(config.data, "path", "")
        if wanted.texts is None and f"data.path={path}" in overrides and Path(path).is_file():
            logger.warning("%s: its %s split alone is scored; --text %s scores all of it", path, wanted.split, path)


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
        documents = f"{first.documents:,} document{'s' if first.documents > 1 else ''}"
        what = "text" if first.split == "text" else f"{first.split} split"
        print(f"{title}, {what}: {first.tokens:,} tokens, {bytes_counted}{words_counted}, {documents}")
        unit = "nats/token" if first.num_bytes is None else "bits/byte"
        interval = f"95 % of {unit}, over documents"
        header = ["memory and data", "nats/token", "bits/byte", "bits/character", "perplexity/word", interval]
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
    return [
        *(format_number(value, ".4f") for value in bits),
        format_number(result.word_perplexity, ".6g"),
        format_interval(result.interval),
    ]
