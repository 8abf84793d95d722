"""Random numbers that are a function of a counter, so that whoever holds the counter can draw them again."""

from __future__ import annotations

import torch
from torch import Tensor

# splitmix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014), as signed 64-bit integers.
GAMMA = 0x9E3779B97F4A7C15 - 2**64
MULTIPLIERS = ((30, 0xBF58476D1CE4E5B9 - 2**64), (27, 0x94D049BB133111EB - 2**64))


def uniforms(key: Tensor, counter: Tensor, salt: int, count: int) -> Tensor:
    """(..., count) float64 in [0, 1), independent ones for each key and counter, int64 (...), and each salt."""
    place = torch.arange(count, device=key.device)
    word = scrambled(scrambled(scrambled(key) + counter) + salt)[..., None] + place
    return shifted(scrambled(word), 11).to(torch.float64) * 2.0**-53


def scrambled(word: Tensor) -> Tensor:
    """The output of splitmix64 for each state word (...) int64."""
    word = word + GAMMA
    for shift, multiplier in MULTIPLIERS:
        word = (word ^ shifted(word, shift)) * multiplier
    return word ^ shifted(word, 31)


def shifted(word: Tensor, places: int) -> Tensor:
    """word (...) int64 moved right as an unsigned integer."""
    return torch.bitwise_and(word >> places, 2 ** (64 - places) - 1)
