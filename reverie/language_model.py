"""Evaluating trained language models, and letting them write."""

from __future__ import annotations

import codecs
import dataclasses
import itertools
import json
import math
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

import lm.config
from lm.evaluation import Evaluation
from lm.evaluation import evaluate as score
from lm.generation import generate as write
from lm.model import Sampling, load_weights
from lm.text_model import make_model
from lm.trainer import evaluated_weights
from lm.vocabulary import Vocabulary, described
from reverie.config import load_experiment
from reverie.errors import UserError
from reverie.run_folder import CONFIG, newest_checkpoint

AS_TRAINED = "as trained"


class Trained(NamedTuple):
    """What a run has learned."""

    step: int
    vocabulary: Vocabulary
    weights: dict[str, Tensor]


def evaluate(run: Path, overrides: Sequence[str], split: str | None, as_json: bool) -> int:
    """Score a split with the newest checkpoint of a run, once for each combination of overrides, and print a table."""
    # All configurations are checked before the first, perhaps long, evaluation.
    variants = [(words, _experiment(run, words)) for words in combinations(overrides)]
    trained = _trained(run, variants[0][1])
    torch.set_num_threads(variants[0][1].train.num_threads)
    rows: list[list[str]] = []
    for words, config in variants:
        result = score(config, trained.vocabulary, trained.weights, split or "validation")
        if as_json:
            print(
                json.dumps({"run": str(run), "step": trained.step, "overrides": words, **_figures(result)}), flush=True
            )
            continue
        if not rows:
            words_counted = f"{result.num_words:,} words" if result.num_words else "no words, so no word perplexity"
            print(
                f"{run} at step {trained.step:,}, {result.split} split: {result.tokens:,} tokens, "
                f"{result.num_bytes:,} bytes, {words_counted}"
            )
        rows.append([" ".join(words) or AS_TRAINED, *_cells(result)])
    if not as_json:
        header = ["memory and data", "nats/token", "bits/byte", "bits/character", "perplexity/word"]
        print_table([header, *rows])
    return 0


def generate(
    run: Path,
    overrides: Sequence[str],
    prompt: str,
    num_tokens: int,
    sampling: Sampling,
    seed: int,
) -> int:
    """Print the prompt and what the newest checkpoint of a run writes after it, token by token."""
    config = _experiment(run, overrides)
    trained = _trained(run, config)
    torch.set_num_threads(config.train.num_threads)
    model = make_model(trained.vocabulary.size, config.core, config.model)
    load_weights(model, trained.weights)
    raw = os.fsencode(prompt)  # as it was typed, also where that is not UTF-8
    tokens = trained.vocabulary.encode(raw, "--prompt")
    start = torch.tensor(tokens.tolist(), dtype=torch.int64)
    print(raw.decode(errors="replace"), end="", flush=True)
    written = (word.token for word in write(model, start, num_tokens, sampling, seed))
    for text in _texts(written, trained.vocabulary):
        print(_printable(text) if sys.stdout.isatty() else text, end="", flush=True)
    print()
    return 0


def combinations(overrides: Sequence[str]) -> list[list[str]]:
    """The overrides with one value each: `a=1,2` and `b=3` are [a=1, b=3] and [a=2, b=3]; brackets stay whole."""
    alternatives = []
    for override in overrides:
        key, _, text = override.partition("=")
        values = text.split(",") if not set(text) & set("[{\"'") else [text]
        alternatives.append([f"{key}={value}" for value in values] if len(values) > 1 else [override])
    return [list(words) for words in itertools.product(*alternatives)]


def _experiment(run: Path, overrides: Sequence[str]) -> lm.config.ExperimentConfig:
    config = load_experiment(run / CONFIG, overrides)
    if not isinstance(config, lm.config.ExperimentConfig):
        raise UserError(f"{run}: trains an agent, not a language model")
    return config


def _trained(run: Path, config: lm.config.ExperimentConfig) -> Trained:
    found = newest_checkpoint(run)
    if found.fingerprint.get("path") != "lm":
        raise UserError(f"{found.path}: is not the checkpoint of a language model")
    weights = evaluated_weights(found.weights, found.state["trainer"])
    return Trained(found.step, described(found.fingerprint["vocabulary"]), weights)


def _figures(result: Evaluation) -> dict[str, float | int | str | None]:
    perplexity = result.word_perplexity
    return dataclasses.asdict(result) | {
        "nats_per_token": result.nats_per_token,
        "bits_per_byte": result.bits_per_byte,
        "bits_per_character": result.bits_per_character,
        "word_perplexity": perplexity if perplexity is not None and math.isfinite(perplexity) else None,
    }


def _cells(result: Evaluation) -> list[str]:
    characters, perplexity = result.bits_per_character, result.word_perplexity
    return [
        f"{result.nats_per_token:.4f}",
        f"{result.bits_per_byte:.4f}",
        "-" if characters is None else f"{characters:.4f}",
        "-" if perplexity is None else f"{perplexity:.6g}",
    ]


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
