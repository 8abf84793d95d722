"""What a table predicts: the bits a sample that a model without memory, or of one sample, needs on held-out clips.

Both are counted on the train split. The unigram is smoothed by one count for every code; the bigram's row of a code is
smoothed towards the unigram by a weight of 16 counts. The first sample of a clip is the unigram's.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lm.corpus import Split

MAX_BIGRAM_LEVELS = 2**10
"""Above, a table of pairs says more of its smoothing than of the sound."""
PRIOR = 16.0
PIECE = 2**22


class Floors(NamedTuple):
    """Bits a sample of tables counted on train."""

    unigram: float
    bigram: float | None
    """None where there are too many levels for a table of pairs."""


def floors(train: Split, held_out: Split, levels: int, limit: int | None = None) -> Floors:
    """The floors of the first `limit` samples of a split; None is all of it."""
    stop = len(held_out.tokens) if limit is None else min(limit, len(held_out.tokens))
    counts = _singles(train, levels, len(train.tokens)) + 1.0
    single = counts / counts.sum()
    unigram = -float(_singles(held_out, levels, stop) @ np.log2(single)) / stop
    if levels > MAX_BIGRAM_LEVELS:
        return Floors(unigram, None)
    pairs = _pairs(train, levels, len(train.tokens))
    rows = (pairs + PRIOR * single) / (pairs.sum(axis=1, keepdims=True) + PRIOR)
    firsts = held_out.tokens[held_out.starts[held_out.starts < stop]].astype(np.int64)
    bits = -float((_pairs(held_out, levels, stop) * np.log2(rows)).sum()) - float(np.log2(single)[firsts].sum())
    return Floors(unigram, bits / stop)


def _singles(split: Split, levels: int, stop: int) -> NDArray[np.float64]:
    """(levels,) how often each code is there."""
    total = np.zeros(levels)
    for start in range(0, stop, PIECE):
        total += np.bincount(split.tokens[start : min(start + PIECE, stop)], minlength=levels)
    return total


def _pairs(split: Split, levels: int, stop: int) -> NDArray[np.float64]:
    """(levels, levels) how often the second code follows the first within a clip."""
    total = np.zeros(levels * levels)
    for start in range(0, stop, PIECE):
        codes = split.tokens[max(start - 1, 0) : min(start + PIECE, stop)].astype(np.int64)
        total += np.bincount(codes[:-1] * levels + codes[1:], minlength=levels * levels)
    borders = split.starts[(split.starts > 0) & (split.starts < stop)]
    before, after = (split.tokens[borders - back].astype(np.int64) for back in (1, 0))
    total -= np.bincount(before * levels + after, minlength=levels * levels)
    return total.reshape(levels, levels)
