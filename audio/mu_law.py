"""Mu-law companding to 256 codes (ITU-T G.711's curve, as in van den Oord et al., 1609.03499, section 2.2).

code   = floor((F(x) + 1) / 2 * 255 + 1/2),  F(x) = sign(x) ln(1 + 255 |x|) / ln 256
sample = F^-1(2 code / 255 - 1)
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

CODES = 256
MU = CODES - 1
PIECE = 2**20
"""Samples companded at a time, so that the wide intermediate arrays stay small."""


def encode(samples: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    """Samples (N,), clipped to [-1, 1] -> codes (N,).

    Half of the codes are for samples within a sixteenth of full scale:

    >>> encode(np.array([-1.0, -1 / 16, 0.0, 1 / 16, 1.0]))
    array([  0,  62, 128, 193, 255], dtype=uint8)
    """
    codes = np.empty(len(samples), np.uint8)
    for start in range(0, len(samples), PIECE):
        x = samples[start : start + PIECE].astype(np.float64).clip(-1, 1)
        companded = np.sign(x) * np.log1p(MU * np.abs(x)) / np.log1p(MU)
        codes[start : start + PIECE] = (companded + 1) / 2 * MU + 0.5
    return codes


def decode(codes: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
    """Codes (N,) -> samples (N,) in [-1, 1].

    >>> decode(np.array([0, 128, 255])).round(3)
    array([-1.,  0.,  1.], dtype=float32)
    """
    samples: NDArray[np.float32] = _LEVELS[codes]
    return samples


def error_bound(samples: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """The largest error of decode(encode(x)) for each x (N,) in [-1, 1]: half a step, 1 / 255, on the companded axis.

    The slope of F^-1 at F(x) is ln(256) / 255 (1 + 255 |x|), and grows by 256^(1/255) at most within half a step.
    """
    slope = np.log1p(MU) / MU * (1 + MU * np.abs(samples.astype(np.float64)))
    return np.asarray(slope * CODES ** (1 / MU) / MU)


def _levels() -> NDArray[np.float32]:
    companded = 2 * np.arange(CODES) / MU - 1
    levels = np.sign(companded) * np.expm1(np.abs(companded) * np.log1p(MU)) / MU
    return np.asarray(levels, dtype=np.float32)


_LEVELS = _levels()
