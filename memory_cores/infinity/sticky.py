"""Sticky memories (Martins et al., 2109.00301): the old signal is sampled most where it was attended to most."""

from __future__ import annotations

import math

import torch
from torch import Tensor

BINS = 128

# splitmix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014), as signed 64-bit integers.
GAMMA = 0x9E3779B97F4A7C15 - 2**64
MULTIPLIERS = ((30, 0xBF58476D1CE4E5B9 - 2**64), (27, 0x94D049BB133111EB - 2**64))


class StickySampler:
    """The attention paid to one layer's long-term memory since its last refit, and the points drawn from it."""

    def __init__(self, histogram: Tensor) -> None:
        """histogram: (B, BINS)"""
        self.histogram = histogram

    def observe(self, mean: Tensor, variance: Tensor) -> None:
        """Count the attention of densities N(mean, variance), both (B, H, T)."""
        self.histogram = self.histogram + attention_histogram(mean.detach(), variance.detach())

    def draw(self, uniforms: Tensor) -> Tensor:
        """Points (B, M), drawn by uniforms (B, M) in [0, 1); empties the histogram."""
        drawn = sampled_points(self.histogram, uniforms)
        self.histogram = torch.zeros_like(self.histogram)
        return drawn


def attention_histogram(mean: Tensor, variance: Tensor) -> Tensor:
    """(B, BINS), the mass in equal parts of [0, 1] of the densities N(mean, variance), both (B, H, T), summed."""
    edges = torch.linspace(0, 1, BINS + 1, dtype=mean.dtype, device=mean.device)
    scaled = (edges - mean[..., None]) / (2 * variance[..., None]).sqrt()
    mass = scaled.erf().sum(dim=(1, 2), dtype=torch.float64).diff() / 2
    return mass.clamp(min=0).to(mean.dtype)


def sampled_points(histogram: Tensor, uniforms: Tensor) -> Tensor:
    """M points (B, M) in [0, 1], in order, drawn from histogram (B, BINS) by uniforms (B, M) in [0, 1).

    A point's place in its bin is uniform, so that points move continuously with the histogram. All parts of [0, 1]
    weigh the same where the histogram is empty.
    """
    mass = histogram.double() + math.ulp(1.0)
    cumulative = mass.cumsum(dim=1)
    cumulative = cumulative / cumulative[:, -1:]
    before = torch.cat([torch.zeros_like(cumulative[:, :1]), cumulative[:, :-1]], dim=1)
    drawn = torch.searchsorted(cumulative, uniforms.contiguous(), right=True).clamp(max=BINS - 1)
    share = (cumulative - before).gather(1, drawn)
    place = ((uniforms - before.gather(1, drawn)) / share).clamp(0, 1)
    return ((drawn + place) / BINS).sort(dim=1).values


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
