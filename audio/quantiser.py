"""The integer codes that a model predicts, and the samples they stand for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from audio import mu_law
from audio.waveform import Samples

Codes = NDArray[np.unsignedinteger[Any]]
"""(N,) codes in the smallest unsigned type that holds them."""


@dataclass(frozen=True)
class Quantiser:
    """`levels` codes in the order of the samples they stand for.

    >>> quantiser = QUANTISERS["logistic_16"]
    >>> codes = quantiser.encode(np.array([-1.0, 0.0, 0.5], np.float32))
    >>> codes
    array([    0, 32768, 49152], dtype=uint16)
    >>> quantiser.decode(codes)
    array([-1. ,  0. ,  0.5], dtype=float32)
    """

    name: str
    levels: int
    encode: Callable[[Samples], Codes]
    """Samples (N,), clipped to full scale -> codes (N,)."""
    decode: Callable[[NDArray[Any]], Samples]
    """Codes (N,) -> samples (N,) in [-1, 1]."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the codes in files."""
        return np.dtype(np.min_scalar_type(self.levels - 1)).newbyteorder("<")


def _encode_linear(samples: Samples) -> Codes:
    return ((samples * 32_768.0).round().clip(-32_768, 32_767) + 32_768).astype(np.uint16)


def _decode_linear(codes: NDArray[Any]) -> Samples:
    return ((codes.astype(np.float32) - 32_768) / 32_768).astype(np.float32)


QUANTISERS = {
    "mu_law_256": Quantiser("mu_law_256", mu_law.CODES, mu_law.encode, mu_law.decode),
    "logistic_16": Quantiser("logistic_16", 2**16, _encode_linear, _decode_linear),
}
