"""Single steps of a WaveNet through its dilation queues, compiled where that pays."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from memory_cores import State, Stream
from memory_cores.validation import check_state, check_step

if TYPE_CHECKING:
    from audio.wavenet import WaveNet
    from audio.wavenet_kernels import StepWeights


MAX_COMPILED_BATCH = 64
"""Streams from which on torch's products of matrices are faster than the compiled products of a matrix and a row."""


class WaveNetStream(Stream):
    """Steps a `WaveNet` core with one small product a layer over past inputs that are not computed anew.

    Each layer's queue is a ring whose oldest input the present one replaces, so a step moves nothing. In
    float32 on the CPU the whole step of a few streams is compiled; else it is torch's. Steps run in the
    parameters' dtype, also under autocast.
    """

    def __init__(self, core: WaveNet, batch_size: int) -> None:
        self.core = core
        self.batch_size = batch_size
        self.queues: Tensor
        """(B, Q, D), a ring for each layer, one after the other."""
        self.place: int
        """Steps that the rings have turned."""
        self.compiled: StepWeights | None
        """The weights of the compiled step, where that is taken."""
        self.load(core.initial_state(batch_size))

    @torch.no_grad()
    def step(self, x: Tensor, reset: Tensor | None = None) -> Tensor:
        check_step(self.core, self.batch_size, x, reset)
        x = x.to(self.queues.dtype)
        if reset is not None and reset.any():
            self.queues[reset] = 0.0
        if self.compiled is not None:
            y = self.compiled_step(x, self.compiled)
        else:
            with torch.autocast(x.device.type, enabled=False):
                y = self.torch_step(x)
        self.place = (self.place + 1) % self.core.layers.turn
        return y

    def compiled_step(self, x: Tensor, weights: StepWeights) -> Tensor:
        """x (B, D) -> y (B, D)."""
        from audio.wavenet_kernels import step_rows

        x = x.contiguous()
        y = torch.empty_like(x)
        step_rows(x.numpy(), self.queues.numpy(), self.place, weights, y.numpy())
        return y

    def torch_step(self, x: Tensor) -> Tensor:
        """x (B, D) -> y (B, D)."""
        weights, width = self.weights, self.core.d_model
        skip = weights.skip_bias.expand(len(x), -1)
        for layer, slots in enumerate(self.slots()):
            taps = torch.cat([*self.queues[:, slots].unbind(1), x], dim=1)
            self.queues[:, slots[0]] = x
            gates = torch.addmm(weights.biases[layer], taps, weights.convolutions[layer].t())
            z = gates[:, :width].tanh() * gates[:, width:].sigmoid()
            skip = torch.addmm(skip, z, weights.skips[layer].t())
            if layer < len(weights.residuals):
                x = torch.addmm(x, z, weights.residuals[layer].t())
        return torch.addmm(weights.output_bias, skip.relu(), weights.output.t()).relu_()

    def slots(self) -> list[list[int]]:
        """For each layer where its taps lie in the queues, from the furthest back; the present one is in none."""
        found = []
        start = 0
        for length, delays in zip(self.core.layers.lengths, self.core.layers.delays, strict=True):
            found.append([start + (self.place - delay) % length for delay in delays])
            start += length
        return found

    @torch.inference_mode(False)
    @torch.no_grad()
    def state(self) -> State:
        order = self.core.layers.from_old_to_new(self.place)
        return {"queues": self.queues.index_select(1, order.to(self.queues.device))}

    @torch.inference_mode(False)
    @torch.no_grad()
    def load(self, state: State) -> None:
        check_state(self.core, state, self.batch_size)
        self.queues = state["queues"].detach().clone(memory_format=torch.contiguous_format)
        self.place = 0
        self.weights = stacked_weights(self.core)
        fits = self.queues.device.type == "cpu" and self.queues.dtype == torch.float32
        self.compiled = compiled_weights(self.core) if fits and self.batch_size <= MAX_COMPILED_BATCH else None


class StackedWeights(NamedTuple):
    """The weights of a step, stacked over the L layers: K kernel size, D channels, S skip channels."""

    convolutions: Tensor
    """(L, 2 D, K * D)"""
    biases: Tensor
    """(L, 2 D)"""
    residuals: Tensor
    """(L - 1, D, D)"""
    skips: Tensor
    """(L, S, D)"""
    skip_bias: Tensor
    """(S,)"""
    output: Tensor
    """(D, S)"""
    output_bias: Tensor
    """(D,)"""


def stacked_weights(core: WaveNet) -> StackedWeights:
    """Copies of the weights a core has now."""
    layers = core.stack_weights()
    skip = layers.skip.view(-1, len(layers.biases), core.d_model)  # (S, L, D)
    weights = StackedWeights(
        torch.stack(list(layers.convolutions)),
        torch.stack(list(layers.biases)),
        torch.stack(list(layers.residuals)) if layers.residuals else skip.new_zeros(0, core.d_model, core.d_model),
        skip.transpose(0, 1).clone(memory_format=torch.contiguous_format),
        layers.skip_bias.clone(),
        core.output.weight.clone(),
        core.output.bias.clone(),
    )
    return StackedWeights(*(tensor.detach() for tensor in weights))


def compiled_weights(core: WaveNet) -> StepWeights:
    """The same as arrays."""
    import numpy as np

    from audio.wavenet_kernels import StepWeights

    dilations = np.array(core.layers.dilations, dtype=np.int64)
    return StepWeights(dilations, *(tensor.numpy() for tensor in stacked_weights(core)))
