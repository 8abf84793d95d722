"""The control: a core with the same interface that remembers nothing."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from memory_cores.core import CoreOutput, MemoryCore, State, Stream
from memory_cores.layers.mlp import MLP
from memory_cores.options import CoreOptions, at_least
from memory_cores.validation import check_call, check_state, check_step


@dataclass(frozen=True, kw_only=True)
class FeedforwardOptions(CoreOptions):
    """The options of `Feedforward`."""

    num_layers: int = 1
    """Stacked residual MLP blocks; cost grows in proportion."""
    d_ff: int | None = None
    """Width of the MLP's hidden layer; null is 4 d_model. Set it to match the number of parameters of a core
    with which this one is compared."""

    def problems(self, d_model: int) -> list[str]:
        problems = super().problems(d_model) + at_least(1, num_layers=self.num_layers)
        return problems + (at_least(1, d_ff=self.d_ff) if self.d_ff is not None else [])


class Feedforward(MemoryCore):
    """No memory: residual pre-norm MLP blocks, the control that shows what a task needs memory for.

    Each block computes y = x + MLP(LN(x)) for each step by itself. The state is empty.

    >>> import memory_cores
    >>> core = memory_cores.build("feedforward", d_model=8)
    >>> x, stream = torch.randn(2, 5, 8), core.stream(batch_size=2)
    >>> y = core(x, core.initial_state(batch_size=2)).y
    >>> torch.allclose(y[:, 0], stream.step(x[:, 0]), atol=1e-5)
    True
    """

    Options = FeedforwardOptions

    def __init__(self, d_model: int, options: FeedforwardOptions) -> None:
        super().__init__(d_model, options)
        d_ff = 4 * d_model if options.d_ff is None else options.d_ff
        self.norms = nn.ModuleList(nn.LayerNorm(d_model) for _ in range(options.num_layers))
        self.mlps = nn.ModuleList(MLP(d_model, d_ff) for _ in range(options.num_layers))

    def initial_state(self, batch_size: int, device: torch.device | str | None = None) -> State:
        return {}

    def forward(self, x: Tensor, state: State, reset: Tensor | None = None) -> CoreOutput:
        check_call(self, x, state, reset)
        return CoreOutput(self.transform(x), {}, {}, {})

    def transform(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D), each vector by itself."""
        for norm, mlp in zip(self.norms, self.mlps, strict=True):
            x = x + mlp(norm(x))
        return x

    def stream(self, batch_size: int) -> FeedforwardStream:
        return FeedforwardStream(self, batch_size)


class FeedforwardStream(Stream):
    """Steps a `Feedforward` core; there is nothing to cache."""

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
