"""Perplexity by how often a word is in the training text (as Rae et al., 1911.05507, table 7)."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lm.corpus import Split
from lm.vocabulary import Tokens, Vocabulary
from lm.words import END_OF_LINE, UNKNOWN, WordVocabulary

BOUNDS = {"> 10K": (10_001, math.inf), "1K-10K": (1_000, 10_000), "100-1K": (100, 999), "< 100": (0, 99)}
"""The least and the greatest count of each bucket."""
_WORD = re.compile(rb"[^ \t\n\r\v\f]+")


@dataclass(frozen=True)
class Bucket:
    """The words of a split that are about as frequent in the training text."""

    frequency: str
    words: int
    nats: float
    """- log p of the words, each with the white space before it."""
    perplexity: float | None
    """exp(nats / words); None without words."""


def frequency_buckets(nats: NDArray[np.float64], split: Split, train: Split, vocabulary: Vocabulary) -> list[Bucket]:
    """The buckets of a split whose tokens cost nats (N,); white space after a document's last word is in none.

    Of words as tokens, <unk> and <eos> are no words of any count: each has a bucket of its own.
    """
    special: list[Bucket] = []
    if isinstance(vocabulary, WordVocabulary):
        for name in (UNKNOWN, END_OF_LINE):
            costs = nats[split.tokens == vocabulary.numbers[name.encode()]]
            special.append(Bucket(name, len(costs), float(costs.sum()), perplexity(float(costs.sum()), len(costs))))
        ordinary = ~np.isin(split.tokens, [vocabulary.numbers[name.encode()] for name in (UNKNOWN, END_OF_LINE)])
        counts = np.bincount(train.tokens, minlength=vocabulary.size)[split.tokens]
        counts_and_nats = np.stack([counts, nats], axis=1)[ordinary]
    else:
        known = Counter(word for document in _documents(train) for word in vocabulary.decode(document).split())
        counts_and_nats = np.array(
            [
                (known[word], cost)
                for document, costs in zip(_documents(split), np.split(nats, split.starts[1:]), strict=True)
                for word, cost in nats_of_words(costs, document, vocabulary)
            ]
        )
    counts, word_nats = counts_and_nats.reshape(-1, 2).T
    buckets = []
    for name, (least, greatest) in BOUNDS.items():
        inside = word_nats[(counts >= least) & (counts <= greatest)]
        total = float(inside.sum())
        buckets.append(Bucket(name, len(inside), total, perplexity(total, len(inside))))
    return buckets + special


def nats_of_words(nats: NDArray[np.float64], tokens: Tokens, vocabulary: Vocabulary) -> Iterator[tuple[bytes, float]]:
    """The words of a document with the nats (N,) of their tokens (N,).

    A token belongs to the first word that ends after the token's start.
    """
    words = list(_WORD.finditer(vocabulary.decode(tokens)))
    lengths = vocabulary.byte_lengths[tokens]
    starts = np.cumsum(lengths) - lengths
    owners = np.searchsorted([word.end() for word in words], starts, side="right")
    costs = np.bincount(owners, weights=nats, minlength=len(words))
    yield from ((word.group(), float(cost)) for word, cost in zip(words, costs, strict=False))


def perplexity(nats: float, words: int) -> float | None:
    """exp(nats / words); None without words, infinite above the largest float.

    >>> round(perplexity(nats=2 * math.log(100), words=2))
    100
    """
    if not words:
        return None
    return math.exp(nats / words) if nats / words < 700 else math.inf


def _documents(split: Split) -> list[Tokens]:
    return np.split(np.asarray(split.tokens), split.starts[1:])
