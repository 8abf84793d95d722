"""Evaluating and generating with trained language models."""

from __future__ import annotations

import codecs
import dataclasses
import itertools
import json
import math
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lm.answers import Answers, evaluate_task
from lm.config import ExperimentConfig, TaskConfig
from lm.corpus import Split, prepare
from lm.evaluation import Evaluation
from lm.evaluation import evaluate as score
from lm.generation import GeneratedToken
from lm.generation import generate as write
from lm.model import LanguageModel, Sampling
from lm.tasks import task_corpus
from lm.text_model import make_model
from lm.vocabularies import vocabulary_from
from lm.vocabulary import Vocabulary
from reverie.checkpoint import Checkpoint
from reverie.config import load_experiment
from reverie.run_folder import CONFIG, newest_checkpoint
from training.averaging import evaluation_weights
from training.device import require_device
from training.errors import UserError
from training.weights import load_weights

AS_TRAINED = "as trained"


class Trained(NamedTuple):
    """What a run has learned."""

    step: int
    vocabulary: Vocabulary
    weights: dict[str, Tensor]


def model_and_validation(config: ExperimentConfig, found: Checkpoint) -> tuple[LanguageModel, Split]:
    """The model of a checkpoint, and the validation split in the numbering it was trained with."""
    vocabulary = vocabulary_from(found.fingerprint["vocabulary"])
    model = make_model(vocabulary.size, config.core, config.model)
    load_weights(model, evaluation_weights(found.weights, found.state["trainer"]))
    if isinstance(config.data, TaskConfig):
        return model, task_corpus(config.data, model.core.period).splits["validation"]
    return model, prepare(config.data, vocabulary).splits["validation"]


def evaluate(run: Path, overrides: Sequence[str], split: str | None, by_frequency: bool, as_json: bool) -> int:
    """Score a split with the newest checkpoint of a run, once for each combination of overrides, and print a table."""
    # All configurations are checked before the first, perhaps long, evaluation.
    variants = [(words, _experiment(run, words)) for words in combinations(overrides)]
    trained = _trained(run)
    torch.set_num_threads(variants[0][1].train.num_threads)
    results: list[tuple[list[str], Evaluation | Answers]] = []
    for words, config in variants:
        result = _score(config, trained, split or "validation", by_frequency)
        if as_json:
            row = {"run": str(run), "step": trained.step, "overrides": words, **_figures(result)}
            print(json.dumps(row), flush=True)
        results.append((words, result))
    if not as_json:
        _print_results(f"{run} at step {trained.step:,}", results)
    return 0


def _score(config: ExperimentConfig, trained: Trained, split: str, by_frequency: bool) -> Evaluation | Answers:
    if isinstance(config.data, TaskConfig):
        if by_frequency:
            raise UserError("--by-frequency: for text only; a task has no words")
        return evaluate_task(config, trained.weights, split)
    return score(config, trained.vocabulary, trained.weights, split, by_frequency)


def generate(
    run: Path,
    overrides: Sequence[str],
    prompt: str,
    num_tokens: int,
    sampling: Sampling,
    seed: int,
    as_json: bool,
) -> int:
    """Print the prompt and what the newest checkpoint of a run writes after it, token by token.

    At the end comes the log-likelihood of what was written, on stderr; with `as_json`, one JSON object instead of all.
    """
    config = _experiment(run, overrides)
    trained = _trained(run)
    torch.set_num_threads(config.train.num_threads)
    model = make_model(trained.vocabulary.size, config.core, config.model).to(config.train.device)
    load_weights(model, trained.weights)
    raw = os.fsencode(prompt)  # as it was typed, also where that is not UTF-8
    tokens = trained.vocabulary.encode(raw, "--prompt")
    start = torch.tensor(tokens.tolist(), dtype=torch.int64)
    written: list[GeneratedToken] = []
    writing = _noted(write(model, start, num_tokens, sampling, seed), written)
    if as_json:
        text = "".join(_texts(writing, trained.vocabulary))
        print(
            json.dumps({"run": str(run), "step": trained.step, "prompt": prompt, "text": text, **_likelihood(written)})
        )
        return 0
    print(trained.vocabulary.decode(tokens).decode(errors="replace"), end="", flush=True)
    for text in _texts(writing, trained.vocabulary):
        print(_printable(text) if sys.stdout.isatty() else text, end="", flush=True)
    print()
    figures = _likelihood(written)
    print(
        f"log-likelihood of the {len(written)} tokens after the prompt: {figures['log_likelihood']:.2f} nats, "
        f"{figures['nats_per_token']:.4f} a token",
        file=sys.stderr,
    )
    return 0


def _noted(words: Iterable[GeneratedToken], written: list[GeneratedToken]) -> Iterator[int]:
    """The tokens of words, each put down in `written` on its way."""
    for word in words:
        written.append(word)
        yield word.token


def _likelihood(written: Sequence[GeneratedToken]) -> dict[str, float]:
    total = math.fsum(word.log_probability for word in written)
    return {"log_likelihood": total, "nats_per_token": -total / len(written)}


def combinations(overrides: Sequence[str]) -> list[list[str]]:
    """The overrides with one value each: `a=1,2` and `b=3` are [a=1, b=3] and [a=2, b=3]; brackets stay whole."""
    alternatives = []
    for override in overrides:
        key, _, text = override.partition("=")
        values = text.split(",") if not set(text) & set("[{\"'") else [text]
        alternatives.append([f"{key}={value}" for value in values] if len(values) > 1 else [override])
    return [list(words) for words in itertools.product(*alternatives)]


def _experiment(run: Path, overrides: Sequence[str]) -> ExperimentConfig:
    config = load_experiment(run / CONFIG, overrides)
    if not isinstance(config, ExperimentConfig):
        raise UserError(f"{run}: trains an agent, not a language model")
    require_device(config.train.device)
    return config


def _trained(run: Path) -> Trained:
    found = newest_checkpoint(run)
    if found.fingerprint.get("path") != "lm":
        raise UserError(f"{found.path}: is not the checkpoint of a language model")
    weights = evaluation_weights(found.weights, found.state["trainer"])
    return Trained(found.step, vocabulary_from(found.fingerprint["vocabulary"]), weights)


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


def _print_results(title: str, results: Sequence[tuple[list[str], Evaluation | Answers]]) -> None:
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
    print_table([header, *([" ".join(words) or AS_TRAINED, *_cells(result)] for words, result in results)])
    for words, result in results:
        if isinstance(result, Evaluation) and result.buckets is not None:
            print(f"by count in the train split, {' '.join(words) or AS_TRAINED}")
            rows = [[b.frequency, f"{b.words:,}", _number(b.perplexity, ".6g")] for b in result.buckets]
            print_table([["count", "words", "perplexity/word"], *rows])


def _cells(result: Evaluation | Answers) -> list[str]:
    if isinstance(result, Answers):
        shares = (
            result.generated_symbol_accuracy,
            result.generated_sequence_accuracy,
            result.teacher_forced_symbol_accuracy,
            result.teacher_forced_sequence_accuracy,
        )
        return [f"{result.nats_per_symbol:.4f}", *(_number(share, ".4f") for share in shares)]
    bits = (result.nats_per_token, result.bits_per_byte, result.bits_per_character)
    return [*(_number(value, ".4f") for value in bits), _number(result.word_perplexity, ".6g")]


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows of cells in columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _texts(tokens: Iterator[int], vocabulary: Vocabulary) -> Iterator[str]:
    """The text of tokens as it becomes whole: a character of several bytes may take several tokens."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for token in tokens:
        yield decoder.decode(vocabulary.decode(np.array([token])))
    yield decoder.decode(b"", final=True)


def _printable(text: str) -> str:
    """Text without control characters: a model of bytes may write what a terminal takes for a command."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)
