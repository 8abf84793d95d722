"""WaveNet (van den Oord et al., 1609.03499) as a memory core."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audio.wavenet_layers import Layers, StackWeights, gated_stack
from memory_cores import CoreOutput, MemoryCore, State
from memory_cores.validation import at_least, check_call, raise_problems

if TYPE_CHECKING:
    from audio.wavenet_stream import WaveNetStream


class WaveNet(MemoryCore):
    """WaveNet: blocks of gated causal convolutions of doubling dilation, summed by skip connections.

    A layer of dilation d takes its input at the present step and at K - 1 steps d, 2 d, ... before it;
    dilations are 1, 2, 4, ... in each of `num_blocks` blocks of `layers_per_block` layers. The output is
    ReLU(1x1(ReLU(sum of skips))) (figure 4), before the last 1x1 and the softmax, which are the model's, as is
    the embedding. `d_skip` channels, d_model if None, lie between the skips and the output.

    State: queues (B, Q, D), the past inputs of all layers, one layer after the other, each from old to new;
    Q is (K - 1) times the sum of the dilations.
    """

    def __init__(
        self,
        *,
        d_model: int,
        num_blocks: int = 1,
        layers_per_block: int = 10,
        kernel_size: int = 2,
        d_skip: int | None = None,
    ) -> None:
        super().__init__()
        problems = at_least(1, d_model=d_model, num_blocks=num_blocks, layers_per_block=layers_per_block)
        problems += at_least(2, kernel_size=kernel_size)
        problems += at_least(1, d_skip=d_skip) if d_skip is not None else []
        raise_problems("wavenet", problems)
        self.d_model = d_model
        num_layers = num_blocks * layers_per_block
        d_skip = d_model if d_skip is None else d_skip
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
        from audio.wavenet_stream import WaveNetStream

        return WaveNetStream(self, batch_size)


def steps_since_reset(reset: Tensor, never: int) -> Tensor:
    """For reset (T, B) bool the steps since the last one, `never` or more where there was none."""
    step = torch.arange(len(reset), device=reset.device)[:, None]
    last = torch.where(reset, step, -never).cummax(dim=0).values
    return step - last
