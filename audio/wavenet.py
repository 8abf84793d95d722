"""WaveNet (van den Oord et al., 1609.03499) as a memory core."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audio.wavenet_layers import Layers, StackWeights, gated_stack
from memory_cores import CoreOutput, MemoryCore, State, Stream
from memory_cores.options import CoreOptions, at_least
from memory_cores.validation import check_call, check_state, check_step

if TYPE_CHECKING:
    from audio.wavenet_kernels import StepWeights


@dataclass(frozen=True, kw_only=True)
class WaveNetOptions(CoreOptions):
    """The options of `WaveNet`."""

    num_blocks: int = 1
    """Blocks, each of which starts again with dilation 1 (section 2.1). The receptive field grows in proportion."""
    layers_per_block: int = 10
    """Layers of each block, with the dilations 1, 2, 4, ...; the receptive field doubles with each. 10 in the paper."""
    kernel_size: int = 2
    """Taps of each layer: its inputs at the present and earlier steps, one dilation apart. 2 in the paper."""
    d_skip: int | None = None
    """Channels between the skip connections and the output; null is d_model. More let the output hold more."""

    def problems(self, d_model: int) -> list[str]:
        problems = super().problems(d_model)
        problems += at_least(1, num_blocks=self.num_blocks, layers_per_block=self.layers_per_block)
        problems += at_least(2, kernel_size=self.kernel_size)
        return problems + (at_least(1, d_skip=self.d_skip) if self.d_skip is not None else [])


class WaveNet(MemoryCore):
    """WaveNet: blocks of gated causal convolutions of doubling dilation, summed by skip connections.

    A layer (equation 2, figure 4), with * its dilated causal convolution with `kernel_size` taps, and the output:

        z = tanh(W_f * x) sigmoid(W_g * x),   x' = x + W_r z,   y = ReLU(W_o ReLU(sum over layers of W_s z))

    A layer of dilation d reads its input at the present step and at the steps d, 2 d, ... before it. In each of
    `num_blocks` blocks the `layers_per_block` dilations are 1, 2, 4, .... The last 1x1 convolution, the softmax and the
    embedding belong to the model. `d_skip` channels, d_model if None, lie between the skips and the output. An
    independent plain loop is `by_the_paper` in tests/audio/test_wavenet.py.

    State: queues (B, Q, D), the past inputs of all layers, one layer after the other, each from old to new; Q is
    kernel_size - 1 times the sum of the dilations.

    >>> import memory_cores
    >>> core = memory_cores.build("wavenet", d_model=8, layers_per_block=3)
    >>> core.receptive_field
    8
    >>> x, stream = torch.randn(2, 9, 8), core.stream(batch_size=2)
    >>> y = core(x, core.initial_state(batch_size=2)).y
    >>> stepped = torch.stack([stream.step(x[:, t]) for t in range(9)], dim=1)
    >>> torch.allclose(y, stepped, atol=1e-5)
    True
    """

    Options = WaveNetOptions

    def __init__(self, d_model: int, options: WaveNetOptions) -> None:
        super().__init__(d_model, options)
        num_blocks, layers_per_block, kernel_size = options.num_blocks, options.layers_per_block, options.kernel_size
        num_layers = num_blocks * layers_per_block
        d_skip = d_model if options.d_skip is None else options.d_skip
        self.convolutions = nn.ModuleList(nn.Linear(kernel_size * d_model, 2 * d_model) for _ in range(num_layers))
        # Nothing follows the last layer but its skip. A bias here would only shift the next layers' own.
        self.residuals = nn.ModuleList(nn.Linear(d_model, d_model, bias=False) for _ in range(num_layers - 1))
        self.skip = nn.Linear(num_layers * d_model, d_skip)
        self.output = nn.Linear(d_skip, d_model)
        dilations = tuple(2**layer for layer in range(layers_per_block))
        self.layers = Layers(num_blocks * dilations, kernel_size)

    @property
    def receptive_field(self) -> int:
        """The newest inputs that an output depends on, the present one included."""
        return self.layers.receptive_field

    def initial_state(self, batch_size: int, device: torch.device | str | None = None) -> State:
        weight = self.output.weight
        shape = (batch_size, sum(self.layers.lengths), self.d_model)
        device = weight.device if device is None else device
        return {"queues": torch.zeros(shape, dtype=weight.dtype, device=device)}

    def forward(self, x: Tensor, state: State, reset: Tensor | None = None) -> CoreOutput:
        check_call(self, x, state, reset)
        queues = state["queues"].detach()
        x = x.to(queues.dtype).transpose(0, 1).contiguous()  # (T, B, D)
        age = None if reset is None or not reset.any() else steps_since_reset(reset.t(), self.receptive_field)
        product_type = x.dtype
        if torch.is_autocast_enabled(x.device.type):
            product_type = torch.get_autocast_dtype(x.device.type)
        weights = StackWeights.of_flat([weight.to(product_type) for weight in self.stack_weights().flat()])
        with torch.autocast(x.device.type, enabled=False):
            skips, queues = gated_stack(x, queues.transpose(0, 1), age, self.layers, weights)
        y = F.relu(self.output(F.relu(skips))).transpose(0, 1)
        return CoreOutput(y, {"queues": queues.transpose(0, 1).contiguous()}, {}, {})

    def stack_weights(self) -> StackWeights:
        """The weights of the layers."""
        convolutions = [cast(nn.Linear, module) for module in self.convolutions]
        return StackWeights(
            [module.weight for module in convolutions],
            [module.bias for module in convolutions],
            [cast(nn.Linear, module).weight for module in self.residuals],
            self.skip.weight,
            self.skip.bias,
        )

    def stream(self, batch_size: int) -> WaveNetStream:
        return WaveNetStream(self, batch_size)


def steps_since_reset(reset: Tensor, never: int) -> Tensor:
    """For reset (T, B) bool the steps (T, B) since the last one, `never` or more where there was none."""
    step = torch.arange(len(reset), device=reset.device)[:, None]
    last = torch.where(reset, step, -never).cummax(dim=0).values
    return step - last


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
    """The weights of a step, stacked over the L layers, with D channels and E skip channels."""

    convolutions: Tensor
    """(L, 2 D, taps * D)"""
    biases: Tensor
    """(L, 2 D)"""
    residuals: Tensor
    """(L - 1, D, D)"""
    skips: Tensor
    """(L, E, D)"""
    skip_bias: Tensor
    """(E,)"""
    output: Tensor
    """(D, E)"""
    output_bias: Tensor
    """(D,)"""


def stacked_weights(core: WaveNet) -> StackedWeights:
    """Copies of the weights a core has now."""
    layers = core.stack_weights()
    skip = layers.skip.view(-1, len(layers.biases), core.d_model)  # (E, L, D)
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
