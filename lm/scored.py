"""A split with the cost of each token: what documents and positions in them cost, and how sure such a figure is."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lm.corpus import Split
from lm.vocabulary import Vocabulary
from lm.words import WordVocabulary

RESAMPLES = 2000
"""Draws of a bootstrap."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class PositionBucket:
    """The tokens at some positions of their documents, from `first` to `last`; the first token has position 0."""

    first: int
    last: int
    tokens: int
    nats_per_token: float


@dataclass(frozen=True)
class ScoredSplit:
    """The documents of a split, and what their tokens cost a model."""

    split: Split
    nats: Array
    """(N,), - log p of each token."""

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(documents,), the tokens of each."""
        return np.diff(self.split.starts, append=len(self.split.tokens))

    @property
    def positions(self) -> NDArray[np.int64]:
        """(N,), the place of each token in its document, from 0."""
        return np.arange(len(self.nats)) - np.repeat(self.split.starts, self.lengths)

    @property
    def document_nats(self) -> Array:
        """(documents,), the cost of each."""
        return np.add.reduceat(self.nats, self.split.starts)

    def by_position(self) -> list[PositionBucket]:
        """What tokens cost at positions 0, 1, 2 to 3, 4 to 7 and so on: by it is seen what a memory buys."""
        lengths = self.lengths
        edges = np.concatenate([[0], 2 ** np.arange(int(lengths.max()).bit_length() + 1)])
        edges = edges[edges < lengths.max()]
        nats = np.zeros(len(edges))
        for document, length in zip(np.split(self.nats, self.split.starts[1:]), lengths, strict=True):
            reached = edges[edges < length]
            nats[: len(reached)] += np.add.reduceat(document, reached)
        stops = np.append(edges[1:], lengths.max())
        tokens = (np.minimum(lengths[:, None], stops) - np.minimum(lengths[:, None], edges)).sum(0)
        return [
            PositionBucket(first, stop - 1, count, total / count)
            for first, stop, count, total in zip(
                edges.tolist(), stops.tolist(), tokens.tolist(), nats.tolist(), strict=True
            )
        ]


def unit_of(vocabulary: Vocabulary) -> str:
    """The unit in which documents are best measured: bits per byte, or where <unk> hides the bytes, nats per token."""
    return "nats per token" if isinstance(vocabulary, WordVocabulary) else "bits per byte"


def document_units(scored: ScoredSplit, vocabulary: Vocabulary) -> Array:
    """The bytes or tokens (documents,) of each document, whichever `unit_of` counts."""
    if isinstance(vocabulary, WordVocabulary):
        return scored.lengths.astype(np.float64)
    num_bytes = vocabulary.byte_lengths[scored.split.tokens]
    return np.add.reduceat(num_bytes, scored.split.starts).astype(np.float64)


def in_unit(nats: Array, unit: str) -> Array:
    """Nats (...) in the bits or nats of a unit such as bits per byte."""
    return nats / math.log(2) if unit.startswith("bits") else nats


def ratio_interval(totals: Array, units: Array, seed: int = 0) -> tuple[float, float] | None:
    """A 95 % interval of sum(totals) / sum(units), both (documents,), by a bootstrap over documents (Efron, 1979).

    It says how much the ratio would vary with other documents of the kind. None for less than two documents, of which
    it would say nothing.

    >>> ratio_interval(np.array([2.0, 4.0, 8.0]), np.array([1.0, 2.0, 4.0]))
    (2.0, 2.0)
    """
    count = len(totals)
    if count < 2:
        return None
    generator = np.random.default_rng(seed)
    ratios = np.empty(RESAMPLES)
    for draw in range(RESAMPLES):
        drawn = generator.integers(count, size=count)
        ratios[draw] = totals[drawn].sum() / units[drawn].sum()
    low, high = np.quantile(ratios, [0.025, 0.975]).tolist()
    return low, high
