"""The control: a core of the same interface that remembers nothing."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from memory_cores.core import CoreOutput, MemoryCore, State, Stream
from memory_cores.layers.mlp import MLP
from memory_cores.validation import at_least, check_call, check_state, check_step, raise_problems


class Feedforward(MemoryCore):
    """No memory: residual pre-norm MLP blocks, the control that shows what a task needs memory for.

    The state is empty.
    """

    def __init__(self, *, d_model: int, num_layers: int = 1, d_ff: int | None = None) -> None:
        super().__init__()
        problems = at_least(1, d_model=d_model, num_layers=num_layers)
        problems += at_least(1, d_ff=d_ff) if d_ff is not None else []
        raise_problems("feedforward", problems)
        self.d_model = d_model
        d_ff = 4 * d_model if d_ff is None else d_ff
        self.norms = nn.ModuleList(nn.LayerNorm(d_model) for _ in range(num_layers))
        self.mlps = nn.ModuleList(MLP(d_model, d_ff) for _ in range(num_layers))

    def initial_state(self, batch_size: int, device: torch.device | str | None = None) -> State:
        return {}

    def forward(self, x: Tensor, state: State, reset: Tensor | None = None) -> CoreOutput:
        check_call(self, x, state, reset)
        return CoreOutput(self.transform(x), {}, {}, {})

    def transform(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D), each vector on its own."""
        for norm, mlp in zip(self.norms, self.mlps, strict=True):
            x = x + mlp(norm(x))
        return x

    def stream(self, batch_size: int) -> FeedforwardStream:
        return FeedforwardStream(self, batch_size)


class FeedforwardStream(Stream):
    """Steps a `Feedforward` core, of which there is nothing to cache."""

    def __init__(self, core: Feedforward, batch_size: int) -> None:
        self.core = core
        self.batch_size = batch_size

    @torch.no_grad()
    def step(self, x: Tensor, reset: Tensor | None = None) -> Tensor:
        check_step(self.core, self.batch_size, x, reset)
        return self.core.transform(x)

    def state(self) -> State:
        return {}

    def load(self, state: State) -> None:
        check_state(self.core, state, self.batch_size)
