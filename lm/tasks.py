"""Synthetic tasks as corpora, in which it is known what must be remembered.

A document is a question, drawn from a seed, and its answer; only the answer is to be predicted.

    copy         x separator x
    reverse      x separator x backwards
    sorting      x separator all symbols by how often they are in x (Martins et al., 2109.00301)
    duplication  0 w 0 w, of which the second half is the answer (Kitaev et al., 2001.04451)

All documents of a corpus are equally long, padded to a multiple of the core's period so that each begins at phase 0.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from lm.config import TaskConfig
from lm.corpus import Corpus, Split
from lm.documents import SPLITS
from lm.vocabulary import SymbolVocabulary

Symbols = NDArray[np.int64]
SYMBOLS = {"copy": 10, "reverse": 10, "sorting": 20, "duplication": 127}
"""The symbols of each task where the configuration names no number."""


def symbols_of(config: TaskConfig) -> int:
    """The symbols that questions are made of."""
    return SYMBOLS[config.task] if config.symbols is None else config.symbols


def answer_length(config: TaskConfig) -> int:
    """The tokens at the end of a document, before its padding, that are to be predicted."""
    by_task = {"sorting": symbols_of(config), "duplication": config.length + 1}
    return by_task.get(config.task, config.length)


def task_corpus(config: TaskConfig, period: int) -> Corpus:
    """The corpus of a task for a core of that period; the same for the same configuration on every machine."""
    counts = (config.train_sequences, config.validation_sequences, config.test_sequences)
    splits = {
        name: _split(name, config, np.random.default_rng([config.seed, index]), count, period)
        for index, (name, count) in enumerate(zip(SPLITS, counts, strict=True))
    }
    digest = hashlib.sha256("".join(split.sha256 for split in splits.values()).encode())
    return Corpus(SymbolVocabulary(symbols_of(config) + 2), splits, digest.hexdigest())


def _split(name: str, config: TaskConfig, generator: np.random.Generator, count: int, period: int) -> Split:
    dtype = np.min_scalar_type(symbols_of(config) + 1)
    documents = np.stack([document(config, generator).astype(dtype) for _ in range(count)])
    length = documents.shape[1]
    padded = -(-length // period) * period
    tokens = np.pad(documents, ((0, 0), (0, padded - length)), constant_values=symbols_of(config) + 1)
    scored = np.zeros(tokens.shape, dtype=bool)
    scored[:, length - answer_length(config) : length] = True
    digest = hashlib.sha256(tokens.tobytes()).hexdigest()
    starts = np.arange(count, dtype=np.int64) * padded
    return Split(name, tokens.reshape(-1), starts, 0, 0, digest, scored.reshape(-1))


def document(config: TaskConfig, generator: np.random.Generator) -> Symbols:
    """One question and its answer (steps,); the separator follows the symbols in number, or is 0 for duplication.

    >>> document(TaskConfig(task="reverse", length=4), np.random.default_rng(0))
    array([ 8,  6,  5,  2, 10,  2,  5,  6,  8])
    """
    symbols = symbols_of(config)
    if config.task == "duplication":
        half = np.concatenate([[0], generator.integers(1, symbols + 1, config.length)])
        return np.concatenate([half, half])
    if config.task == "sorting":
        question = draw_drifting(config.length, symbols, generator)
        return np.concatenate([question, [symbols], sort_by_count(question, symbols)])
    question = generator.integers(0, symbols, config.length)
    return np.concatenate([question, [symbols], question if config.task == "copy" else question[::-1]])


def draw_drifting(length: int, symbols: int, generator: np.random.Generator) -> Symbols:
    """Symbols (length,) whose distribution drifts from one to another, so that the recent ones mislead.

    Symbol j is drawn from (1 - r) p0 + r p1 with r = (j + 1) / length, and p0 and p1 from integers 1 to 9, normalised.
    """
    weights = generator.integers(1, 10, (2, symbols)).astype(np.float64)
    cumulative = np.cumsum(weights / weights.sum(1, keepdims=True), axis=1)
    r = (np.arange(length)[:, None] + 1) / length
    bounds = (1 - r) * cumulative[0] + r * cumulative[1]  # (length, symbols)
    drawn = (generator.random((length, 1)) >= bounds).sum(1)
    return np.asarray(drawn.clip(max=symbols - 1), dtype=np.int64)


def sort_by_count(question: Symbols, symbols: int) -> Symbols:
    """All symbols, the most frequent first; of equally frequent ones that which came first, those absent in order."""
    counts = np.bincount(question, minlength=symbols)
    first = np.full(symbols, len(question))
    np.minimum.at(first, question, np.arange(len(question)))
    return np.lexsort((np.arange(symbols), first, -counts))


def correct(
    config: TaskConfig, questions: Symbols, answers: Symbols, given: Symbols, before: Symbols
) -> NDArray[np.bool_]:
    """Which symbols (N, length) of those `given` are right, given questions (N, steps) and their answers (N, length).

    `before` (N, length) are the symbols that preceded each given one: those of the answer when teacher-forced, else
    those given. In sorting, equally frequent symbols may come in any order, each once.
    """
    if config.task != "sorting":
        return np.asarray(answers == given)
    symbols = symbols_of(config)
    counts = np.stack([np.bincount(question[: config.length], minlength=symbols) for question in questions])
    counts = np.pad(counts, ((0, 0), (0, 2)), constant_values=-1)  # the separator and the padding are never right
    equally = np.take_along_axis(counts, given, 1) == np.take_along_axis(counts, answers, 1)
    again = (given[:, :, None] == before[:, None, :]) & np.tri(given.shape[1], k=-1, dtype=bool)
    return np.asarray(equally & ~again.any(2))
