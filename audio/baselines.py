"""Unigram and bigram baselines, in bits per sample of held-out clips.

A unigram predicts a sample by how often its code is in the train split, a bigram by how often it follows the code
before it there. A model that has learned anything beyond one sample is below both. The unigram is smoothed by one count
for every code; the bigram's row of a code is smoothed towards the unigram by a weight of 16 counts. The first sample of
a clip is predicted by the unigram.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lm.corpus import Split

MAX_BIGRAM_LEVELS = 2**10
"""Above, a table of pairs depends more on its smoothing than on the sound."""
PRIOR = 16.0
"""Counts of the unigram in each row of the bigram."""
PIECE = 2**22
"""Samples counted at once."""


class Baselines(NamedTuple):
    """Bits per sample."""

    unigram: float
    bigram: float | None
    """None where there are too many codes for a table of pairs."""


def baselines(train: Split, held_out: Split, levels: int, limit: int | None = None) -> Baselines:
    """The baselines of the first `limit` samples of a split; None is all of it."""
    stop = len(held_out.tokens) if limit is None else min(limit, len(held_out.tokens))
    counts = _singles(train, levels, len(train.tokens)) + 1.0
    single = counts / counts.sum()
    unigram = -float(_singles(held_out, levels, stop) @ np.log2(single)) / stop
    if levels > MAX_BIGRAM_LEVELS:
        return Baselines(unigram, None)
    pairs = _pairs(train, levels, len(train.tokens))
    rows = (pairs + PRIOR * single) / (pairs.sum(axis=1, keepdims=True) + PRIOR)
    firsts = held_out.tokens[held_out.starts[held_out.starts < stop]].astype(np.int64)
    bits = -float((_pairs(held_out, levels, stop) * np.log2(rows)).sum()) - float(np.log2(single)[firsts].sum())
    return Baselines(unigram, bits / stop)


def _singles(split: Split, levels: int, stop: int) -> NDArray[np.float64]:
    """(levels,) occurrences of each code."""
    total = np.zeros(levels)
    for start in range(0, stop, PIECE):
        total += np.bincount(split.tokens[start : min(start + PIECE, stop)], minlength=levels)
    return total


def _pairs(split: Split, levels: int, stop: int) -> NDArray[np.float64]:
    """(levels, levels) occurrences of the second code after the first within a clip."""
    total = np.zeros(levels * levels)
    for start in range(0, stop, PIECE):
        codes = split.tokens[max(start - 1, 0) : min(start + PIECE, stop)].astype(np.int64)
        total += np.bincount(codes[:-1] * levels + codes[1:], minlength=levels * levels)
    borders = split.starts[(split.starts > 0) & (split.starts < stop)]
    before, after = (split.tokens[borders - back].astype(np.int64) for back in (1, 0))
    total -= np.bincount(before * levels + after, minlength=levels * levels)
    return total.reshape(levels, levels)
