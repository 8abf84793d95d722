"""Sticky memories (Martins et al., 2109.00301): the old signal is sampled most densely where it was attended most."""

from __future__ import annotations

import math

import torch
from torch import Tensor

BINS = 128
"""Equal parts of [0, 1] into which attention is counted."""

# splitmix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014), as signed 64-bit integers.
GAMMA = 0x9E3779B97F4A7C15 - 2**64
MULTIPLIERS = ((30, 0xBF58476D1CE4E5B9 - 2**64), (27, 0x94D049BB133111EB - 2**64))


class StickySampler:
    """Counts the attention to one layer's long-term memory since its last refit, and draws points from the counts."""

    def __init__(self, histogram: Tensor) -> None:
        """histogram: (B, BINS)"""
        self.histogram = histogram

    def observe(self, mean: Tensor, variance: Tensor) -> None:
        """Count the attention of densities N(mean, variance), both (B, H, T)."""
        self.histogram = self.histogram + attention_histogram(mean.detach(), variance.detach())

    def draw(self, uniforms: Tensor) -> Tensor:
        """Draw points (B, P) with uniforms (B, P) in [0, 1), and empty the histogram."""
        drawn = sample_points(self.histogram, uniforms)
        self.histogram = torch.zeros_like(self.histogram)
        return drawn


def attention_histogram(mean: Tensor, variance: Tensor) -> Tensor:
    """(B, BINS), the summed mass of the densities N(mean, variance), both (B, H, T), in equal parts of [0, 1]."""
    edges = torch.linspace(0, 1, BINS + 1, dtype=mean.dtype, device=mean.device)
    scaled = (edges - mean[..., None]) / (2 * variance[..., None]).sqrt()
    mass = scaled.erf().sum(dim=(1, 2), dtype=torch.float64).diff() / 2
    return mass.clamp(min=0).to(mean.dtype)


def sample_points(histogram: Tensor, uniforms: Tensor) -> Tensor:
    """Points (B, P) in [0, 1], in ascending order, drawn from histogram (B, BINS) with uniforms (B, P) in [0, 1).

    A point's place in its bin is uniform, so that points move continuously with the histogram. If the histogram is
    empty, all parts of [0, 1] have the same weight.
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
    """(..., count) float64 in [0, 1), independent for each key and counter, both (...) int64, and each salt."""
    place = torch.arange(count, device=key.device)
    word = scramble(scramble(scramble(key) + counter) + salt)[..., None] + place
    return shift_right(scramble(word), 11).to(torch.float64) * 2.0**-53


def scramble(word: Tensor) -> Tensor:
    """The output of splitmix64 for each state word (...) int64."""
    word = word + GAMMA
    for shift, multiplier in MULTIPLIERS:
        word = (word ^ shift_right(word, shift)) * multiplier
    return word ^ shift_right(word, 31)


def shift_right(word: Tensor, places: int) -> Tensor:
    """word (...) int64 shifted right as an unsigned integer, that is, with zeros from the left."""
    return torch.bitwise_and(word >> places, 2 ** (64 - places) - 1)
