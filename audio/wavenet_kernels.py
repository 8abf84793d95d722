"""The loops of a WaveNet's single steps, compiled by numba.

A step is a chain of products of one vector with a small matrix; a call into torch for each of them costs more
than the product. Everything compiled is in this file, because numba's cache on disk notices changes of one file.
Arrays are contiguous and of one floating-point type. L layers, K kernel size, D channels, S skip channels, V codes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import numba
import numpy as np
from numpy.typing import NDArray

P = ParamSpec("P")
R = TypeVar("R")
Floats = NDArray[np.floating]
Integers = NDArray[np.int64]


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Compile at the first call, and keep the code on disk where there is a place for it.

    Sums may be reordered, so that they use vector instructions; NaN and infinity keep their meaning.
    """
    options = {"fastmath": {"reassoc", "contract"}, "nogil": True}
    try:
        result: Callable[P, R] = numba.njit(cache=True, **options)(function)
    except RuntimeError:  # neither the package's folder nor the user's cache folder can be written
        result = numba.njit(**options)(function)
    return result


@compiled
def product(weight: Floats, bias: Floats, x: Floats, out: Floats) -> None:
    """out = weight (M, N) x (N,) + bias (M,)."""
    for row in range(weight.shape[0]):
        total = bias[row]
        for column in range(weight.shape[1]):
            total += weight[row, column] * x[column]
        out[row] = total


@compiled
def add_product(weight: Floats, x: Floats, out: Floats) -> None:
    """out += weight (M, N) x (N,)."""
    product(weight, out, x, out)


@compiled
def step_row(
    x: Floats,
    queues: Floats,
    place: int,
    dilations: Integers,
    convolutions: Floats,
    biases: Floats,
    residuals: Floats,
    skips: Floats,
    skip_bias: Floats,
    output: Floats,
    output_bias: Floats,
    y: Floats,
) -> None:
    """One step of one stream: x (D,) -> y (D,), and its queues (Q, D), rings that turn by `place` steps.

    dilations (L,), convolutions (L, 2 D, K D), biases (L, 2 D), residuals (L - 1, D, D), skips (L, S, D), skip_bias
    (S,), output (D, S), output_bias (D,).
    """
    width = x.shape[0]
    taps = np.empty(convolutions.shape[2], x.dtype)
    gates = np.empty(2 * width, x.dtype)
    z = np.empty(width, x.dtype)
    present = x.copy()
    skip = skip_bias.copy()
    one, two = x.dtype.type(1), x.dtype.type(2)
    furthest = convolutions.shape[2] // width - 1
    start = 0
    for layer in range(dilations.shape[0]):
        length = dilations[layer] * furthest
        for tap in range(furthest):
            slot = start + (place + tap * dilations[layer]) % length
            for channel in range(width):
                taps[tap * width + channel] = queues[slot, channel]
        slot = start + place % length
        for channel in range(width):
            taps[furthest * width + channel] = present[channel]
            queues[slot, channel] = present[channel]
        product(convolutions[layer], biases[layer], taps, gates)
        for channel in range(width):
            tanh = two / (one + math.exp(-two * gates[channel])) - one
            z[channel] = tanh / (one + math.exp(-gates[width + channel]))
        add_product(skips[layer], z, skip)
        if layer < residuals.shape[0]:
            add_product(residuals[layer], z, present)
        start += length
    for channel in range(skip.shape[0]):
        skip[channel] = max(skip[channel], x.dtype.type(0))
    product(output, output_bias, skip, y)
    for channel in range(width):
        y[channel] = max(y[channel], x.dtype.type(0))


@compiled
def step_rows(
    x: Floats,
    queues: Floats,
    place: int,
    dilations: Integers,
    convolutions: Floats,
    biases: Floats,
    residuals: Floats,
    skips: Floats,
    skip_bias: Floats,
    output: Floats,
    output_bias: Floats,
    y: Floats,
) -> None:
    """One step of B streams: x (B, D) -> y (B, D), queues (B, Q, D); the rest as `step_row`'s."""
    for row in range(x.shape[0]):
        step_row(
            x[row],
            queues[row],
            place,
            dilations,
            convolutions,
            biases,
            residuals,
            skips,
            skip_bias,
            output,
            output_bias,
            y[row],
        )
