"""Single steps of a WaveNet through its dilation queues, compiled where that pays."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from memory_cores import State, Stream
from memory_cores.validation import check_state, check_step

if TYPE_CHECKING:
    from audio.wavenet import WaveNet
    from audio.wavenet_kernels import Floats, Integers


class StepWeights(NamedTuple):
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

    def arrays(self) -> tuple[Floats, ...]:
        """The same memory as arrays, in this order."""
        return tuple(tensor.numpy() for tensor in self)


class WaveNetStream(Stream):
    """Steps a `WaveNet` core with one small product a layer over past inputs that are not computed anew.

    Each layer's queue is a ring whose oldest input the present one replaces, so a step moves nothing. In
    float32 on the CPU the whole step is compiled; elsewhere it is torch's. Steps run in the parameters' dtype, also
    under autocast.
    """

    def __init__(self, core: WaveNet, batch_size: int) -> None:
        self.core = core
        self.batch_size = batch_size
        self.dilations: Integers = np.array(core.layers.dilations, dtype=np.int64)
        self.load(core.initial_state(batch_size))

    @torch.no_grad()
    def step(self, x: Tensor, reset: Tensor | None = None) -> Tensor:
        check_step(self.core, self.batch_size, x, reset)
        x = x.to(self.queues.dtype)
        if reset is not None and reset.any():
            self.queues[reset] = 0.0
        if self.is_compiled:
            from audio.wavenet_kernels import step_rows

            y = torch.empty_like(x, memory_format=torch.contiguous_format)
            rows = x.contiguous().numpy()
            step_rows(rows, self.queues.numpy(), self.place, self.dilations, *self.weights.arrays(), y.numpy())
        else:
            with torch.autocast(x.device.type, enabled=False):
                y = self.step_in_torch(x)
        self.place = (self.place + 1) % self.turn
        return y

    def step_in_torch(self, x: Tensor) -> Tensor:
        """x (B, D) -> y (B, D)."""
        width = self.core.d_model
        weights = self.weights
        skip = weights.skip_bias.expand(len(x), -1)
        for layer, slots in enumerate(self.slots(self.place)):
            taps = torch.cat([*self.queues[:, slots].unbind(1), x], dim=1)
            self.queues[:, slots[0]] = x
            gates = torch.addmm(weights.biases[layer], taps, weights.convolutions[layer].t())
            z = gates[:, :width].tanh() * gates[:, width:].sigmoid()
            skip = torch.addmm(skip, z, weights.skips[layer].t())
            if layer < len(weights.residuals):
                x = torch.addmm(x, z, weights.residuals[layer].t())
        return torch.addmm(weights.output_bias, skip.relu(), weights.output.t()).relu_()

    def slots(self, place: int) -> list[list[int]]:
        """For each layer where its taps lie in the queues, from the furthest back; the present one has none."""
        found = []
        start = 0
        for length, delays in zip(self.core.layers.lengths, self.core.layers.delays, strict=True):
            found.append([start + (place - delay) % length for delay in delays[:-1]])
            start += length
        return found

    @torch.inference_mode(False)
    @torch.no_grad()
    def state(self) -> State:
        return {"queues": self.queues.index_select(1, self.from_old_to_new())}

    def from_old_to_new(self) -> Tensor:
        """(Q,), where in the rings the inputs lie that the state holds."""
        order = []
        start = 0
        for length in self.core.layers.lengths:
            order.append(start + (self.place + torch.arange(length)) % length)
            start += length
        return torch.cat(order).to(self.queues.device)

    @torch.inference_mode(False)
    @torch.no_grad()
    def load(self, state: State) -> None:
        check_state(self.core, state, self.batch_size)
        self.queues = state["queues"].detach().clone(memory_format=torch.contiguous_format)  # (B, Q, D)
        self.place = 0
        self.turn = self.core.layers.turn
        convolutions, biases, residuals = (
            [parameter.detach() for parameter in parameters] for parameters in self.core.stack_parameters()
        )
        output, skip = self.core.output, self.core.skip
        width = self.core.d_model
        self.weights = StepWeights(
            torch.stack(convolutions),
            torch.stack(biases),
            torch.stack(residuals) if residuals else biases[0].new_zeros(0, width, width),
            skip.weight.detach().unflatten(1, (-1, width)).transpose(0, 1).contiguous(),
            skip.bias.detach().clone(),
            output.weight.detach().clone(),
            output.bias.detach().clone(),
        )
        self.is_compiled = self.queues.device.type == "cpu" and self.queues.dtype == torch.float32
