"""The loops of a WaveNet's single steps, compiled by numba.

A step is a chain of products of one vector with a small matrix; a call into torch for each of them costs more
than the product. Everything compiled is in this file, because numba's cache on disk notices changes of one file.
Arrays are contiguous and of one floating-point type. L layers, D channels, E skip channels, V codes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, ParamSpec, TypeVar

import numba
import numpy as np
from numpy.typing import NDArray

P = ParamSpec("P")
R = TypeVar("R")
Floats = NDArray[np.floating]
Integers = NDArray[np.int64]


class StepWeights(NamedTuple):
    """The weights of a step, stacked over the layers."""

    dilations: Integers
    """(L,)"""
    convolutions: Floats
    """(L, 2 D, taps * D)"""
    biases: Floats
    """(L, 2 D)"""
    residuals: Floats
    """(L - 1, D, D)"""
    skips: Floats
    """(L, E, D)"""
    skip_bias: Floats
    """(E,)"""
    output: Floats
    """(D, E)"""
    output_bias: Floats
    """(D,)"""


class EndWeights(NamedTuple):
    """The weights before and after the core of a model of codes."""

    embedding: Floats
    """(V, D), the core's inputs."""
    norm_weight: Floats
    """(D,), of the layer normalisation of the core's outputs."""
    norm_bias: Floats
    """(D,)"""
    norm_epsilon: float
    softmax: Floats
    """(V, D)"""
    softmax_bias: Floats
    """(V,)"""


def compile_loop(function: Callable[P, R]) -> Callable[P, R]:
    """Compile at the first call, and keep the code on disk where there is a place for it.

    Sums may be reordered, so that they use vector instructions; NaN and infinity keep their meaning.
    """
    sums = {"reassoc", "contract"}
    try:
        result: Any = numba.njit(cache=True, fastmath=sums, nogil=True)(function)
    except RuntimeError:  # neither the package's folder nor the user's cache folder can be written
        result = numba.njit(fastmath=sums, nogil=True)(function)
    typed: Callable[P, R] = result
    return typed


@compile_loop
def product(weight: Floats, bias: Floats, x: Floats, out: Floats) -> None:
    """out = weight (rows, columns) x (columns,) + bias (rows,), which may be `out` itself."""
    for row in range(weight.shape[0]):
        total = bias[row]
        for column in range(weight.shape[1]):
            total += weight[row, column] * x[column]
        out[row] = total


@compile_loop
def step_row(x: Floats, queues: Floats, place: int, weights: StepWeights, y: Floats) -> None:
    """One step of one stream: x (D,) -> y (D,); its queues (Q, D) are rings that have turned by `place` steps."""
    width = x.shape[0]
    furthest = weights.convolutions.shape[2] // width - 1
    taps = np.empty(weights.convolutions.shape[2], x.dtype)
    gates = np.empty(2 * width, x.dtype)
    z = np.empty(width, x.dtype)
    present = x.copy()
    skip = weights.skip_bias.copy()
    zero, one, two = x.dtype.type(0), x.dtype.type(1), x.dtype.type(2)
    start = 0
    for layer, dilation in enumerate(weights.dilations):
        length = dilation * furthest
        for tap in range(furthest):
            slot = start + (place + tap * dilation) % length
            for channel in range(width):
                taps[tap * width + channel] = queues[slot, channel]
        slot = start + place % length
        for channel in range(width):
            taps[furthest * width + channel] = present[channel]
            queues[slot, channel] = present[channel]
        product(weights.convolutions[layer], weights.biases[layer], taps, gates)
        for channel in range(width):
            tanh = two / (one + math.exp(-two * gates[channel])) - one
            z[channel] = tanh / (one + math.exp(-gates[width + channel]))
        product(weights.skips[layer], skip, z, skip)
        if layer < weights.residuals.shape[0]:
            product(weights.residuals[layer], present, z, present)
        start += length
    for channel in range(skip.shape[0]):
        skip[channel] = max(skip[channel], zero)
    product(weights.output, weights.output_bias, skip, y)
    for channel in range(width):
        y[channel] = max(y[channel], zero)


@compile_loop
def step_rows(x: Floats, queues: Floats, place: int, weights: StepWeights, y: Floats) -> None:
    """One step of B streams: x (B, D) -> y (B, D), with queues (B, Q, D)."""
    for row in range(x.shape[0]):
        step_row(x[row], queues[row], place, weights, y[row])


@compile_loop
def draw(logits: Floats, temperature: float, uniform: float, cumulative: NDArray[np.float64]) -> int:
    """The code that a number drawn from [0, 1) picks from logits (V,) / temperature; the likeliest where that is 0."""
    likeliest = logits.argmax()
    if temperature == 0.0:
        return int(likeliest)
    for code in range(len(logits)):
        cumulative[code] = math.exp((np.float64(logits[code]) - np.float64(logits[likeliest])) / temperature)
    for code in range(1, len(logits)):
        cumulative[code] += cumulative[code - 1]
    threshold = uniform * cumulative[-1]
    for code in range(len(logits)):
        if cumulative[code] > threshold:
            return code
    return int(likeliest)  # where rounding brought the threshold to the sum


@compile_loop
def log_probability(logits: Floats, code: int) -> float:
    """log softmax(logits (V,))[code]."""
    largest = logits.max()
    total = logits.dtype.type(0)
    for logit in logits:
        total += math.exp(logit - largest)
    return float(logits[code] - largest - math.log(total))


@compile_loop
def normalise(x: Floats, weight: Floats, bias: Floats, epsilon: float, out: Floats) -> None:
    """Layer normalisation of x (D,)."""
    mean = x.mean()
    variance = x.dtype.type(0)
    for channel in range(len(x)):
        variance += (x[channel] - mean) * (x[channel] - mean)
    scale = x.dtype.type(1.0 / math.sqrt(variance / len(x) + epsilon))
    for channel in range(len(x)):
        out[channel] = (x[channel] - mean) * scale * weight[channel] + bias[channel]


@compile_loop
def generate_row(
    codes: Integers,
    log_probabilities: Floats,
    uniforms: NDArray[np.float64],
    temperature: float,
    logits: Floats,
    queues: Floats,
    place: int,
    weights: StepWeights,
    ends: EndWeights,
) -> None:
    """Draw codes (N,) one after the other, each by its number of uniforms (N,), with log p of each at temperature 1.

    logits: (V,), of the first code, left as those of the code after the last; queues and place: as `step_row`'s.
    """
    width = queues.shape[1]
    cumulative = np.empty(len(logits), np.float64)
    y = np.empty(width, queues.dtype)
    normed = np.empty(width, queues.dtype)
    for count in range(len(codes)):
        code = draw(logits, temperature, uniforms[count], cumulative)
        codes[count] = code
        log_probabilities[count] = log_probability(logits, code)
        step_row(ends.embedding[code], queues, place + count, weights, y)
        normalise(y, ends.norm_weight, ends.norm_bias, ends.norm_epsilon, normed)
        product(ends.softmax, ends.softmax_bias, normed, logits)
