"""Many samples in one compiled loop: drawing, embedding, WaveNet, normalisation and softmax."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from audio.wavenet import WaveNet, compiled_weights
from audio.wavenet_kernels import EndWeights, generate_row
from memory_cores import State
from memory_cores.validation import check_state
from training.held_out import Check, never_stop
from training.progress import ProgressLine

CALL_LENGTH = 8192
"""Codes of one compiled call, which no signal interrupts."""


class Generated(NamedTuple):
    """The drawn codes, and their log-probabilities."""

    codes: Tensor
    """(B, num_codes) int64."""
    log_probabilities: Tensor
    """(B, num_codes) float32, log p of each code given those before it, at temperature 1 however they were drawn."""
    state: State
    """The core's after the last code."""
    logits: Tensor
    """(B, V), of the code after the last."""


class Ends(NamedTuple):
    """The embedding before the core, and softmax(W LayerNorm(y) + b) of V codes after it."""

    embedding: Tensor
    """(V, D), the core's input after each code."""
    norm: torch.nn.LayerNorm
    softmax: torch.nn.Linear


@torch.no_grad()
def generate_codes(
    core: WaveNet,
    ends: Ends,
    state: State,
    logits: Tensor,
    num_codes: int,
    temperature: float = 1.0,
    seed: int = 0,
    check: Check = never_stop,
) -> Generated:
    """Go on from the state of B streams and the logits (B, V) of their next codes for `num_codes` codes each.

    A temperature of 0 takes the likeliest code. `check` is called between two calls of the compiled loop. A stream's
    codes do not depend on how many streams come after it. Raises ValueError for a temperature below 0, a state of
    another batch size, and weights that are not in float32 on the CPU.
    """
    if not temperature >= 0:
        raise ValueError(f"temperature is {temperature}, expected at least 0")
    weights = [*core.parameters(), *ends.norm.parameters(), *ends.softmax.parameters(), ends.embedding, logits]
    if any(weight.dtype != torch.float32 or weight.device.type != "cpu" for weight in weights):
        raise ValueError("the compiled loop takes weights and logits in torch.float32 on the CPU, no others")
    check_state(core, state, len(logits))
    logits = logits.clone(memory_format=torch.contiguous_format)
    codes = torch.empty(len(logits), num_codes, dtype=torch.int64)
    log_probabilities = torch.empty(len(logits), num_codes)
    uniforms = np.random.default_rng(seed).random(codes.shape)
    queues = state["queues"].detach().clone(memory_format=torch.contiguous_format)
    step, end = compiled_weights(core), end_weights(ends)
    # One stream after the other: the weights stay in the cache, and rows side by side gain nothing.
    with ProgressLine(codes.numel(), unit="samples", what="generating") as line:
        for row in range(len(logits)):
            for start in range(0, num_codes, CALL_LENGTH):
                check()
                call = slice(start, start + CALL_LENGTH)
                generate_row(
                    codes[row, call].numpy(),
                    log_probabilities[row, call].numpy(),
                    uniforms[row, call],
                    float(temperature),
                    logits[row].numpy(),
                    queues[row].numpy(),
                    start,
                    step,
                    end,
                )
                line.update(row * num_codes + min(start + CALL_LENGTH, num_codes))
    state = {"queues": queues.index_select(1, core.layers.from_old_to_new(num_codes))}
    return Generated(codes, log_probabilities, state, logits)


def end_weights(ends: Ends) -> EndWeights:
    """The same as arrays."""
    tensors = (ends.embedding, ends.norm.weight, ends.norm.bias, ends.softmax.weight, ends.softmax.bias)
    embedding, norm_weight, norm_bias, softmax, bias = (tensor.detach().contiguous().numpy() for tensor in tensors)
    return EndWeights(embedding, norm_weight, norm_bias, ends.norm.eps, softmax, bias)
