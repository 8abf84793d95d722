"""The contract of a memory core: (B, T, D) and a state in, (B, T, D) and a state out.

Shapes use one glossary everywhere: B batch rows (independent streams), T time steps of one call, D model width,
H attention heads, K keys attended to, M remembered steps.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from memory_cores.options import CoreOptions

State = dict[str, Tensor]
"""What a core remembers: a flat dict of tensors, batch-first, of constant size. None of it is kept on the module."""


class CoreOutput(NamedTuple):
    """What one call of a core returns."""

    y: Tensor
    """(B, T, D), the outputs."""
    state: State
    """The state after the last step; carries no gradient."""
    losses: dict[str, Tensor]
    """Scalars the trainer adds to its loss."""
    metrics: dict[str, Tensor]
    """Detached scalars worth a curve."""


class MemoryCore(nn.Module, ABC):
    """A recurrent map over sequences whose memory is explicit data.

    Every core obeys the seven laws that `memory_cores.testing` states: chunk invariance, acting is learning,
    causality, reset isolation, row independence, bounded state, finite gradients that stop at the state.
    """

    Options: ClassVar[type[CoreOptions]] = CoreOptions
    """The dataclass of the core's options, beside the core; `CoreOptions` itself has none."""
    d_model: int
    period: int = 1
    """Steps in one turn of the memory schedule. Rows of one batch share a phase, so trainers that batch rows of
    different streams make unroll and segment lengths multiples of it."""

    def __init__(self, d_model: int, options: CoreOptions) -> None:
        """A core of width `d_model`, with freshly drawn weights; `options` is of the type `Options`.

        Raises ValueError that lists all options that do not fit.
        """
        options.check(type(self).__name__, d_model)
        super().__init__()
        self.d_model = d_model

    @abstractmethod
    def initial_state(self, batch_size: int, device: torch.device | str | None = None) -> State:
        """The state of `batch_size` streams that have seen nothing, on `device` (the parameters' if None)."""

    @abstractmethod
    def forward(self, x: Tensor, state: State, reset: Tensor | None = None) -> CoreOutput:
        """Run T steps.

        x: (B, T, D). reset: (B, T) bool, True where x[b, t] is the first step of a new episode or document.
        Raises ValueError on shapes that do not fit the core or on rows whose schedule phases differ.
        """

    def stream(self, batch_size: int) -> Stream:
        """Fast stepping over `batch_size` streams from the initial state, with this core's current weights.

        A core that has nothing faster is called with one step at a time.
        """
        return ForwardStream(self, batch_size)

    def __call__(self, x: Tensor, state: State, reset: Tensor | None = None) -> CoreOutput:
        output: CoreOutput = super().__call__(x, state, reset)
        return output


class Stream(ABC):
    """Steps a core through time one step a call, equal to `forward` on the whole, without gradients.

    Used by actors, evaluation and generation. It may cache anything derived from weights and state.
    """

    @abstractmethod
    def step(self, x: Tensor, reset: Tensor | None = None) -> Tensor:
        """One step: x (B, D), reset (B,) bool -> y (B, D)."""

    @abstractmethod
    def state(self) -> State:
        """The state now, as `forward` would have returned it; later steps do not change it."""

    @abstractmethod
    def load(self, state: State) -> None:
        """Continue from `state`, whose batch size must be the stream's."""

    def refresh(self) -> None:
        """Rebuild what was derived from the weights; call it after they changed."""
        self.load(self.state())


class ForwardStream(Stream):
    """Steps a core by calls of one step each."""

    def __init__(self, core: MemoryCore, batch_size: int) -> None:
        self.core = core
        self.now = core.initial_state(batch_size)

    @torch.no_grad()
    def step(self, x: Tensor, reset: Tensor | None = None) -> Tensor:
        y, self.now, _, _ = self.core(x[:, None], self.now, None if reset is None else reset[:, None])
        return y[:, 0]

    def state(self) -> State:
        return {name: tensor.clone() for name, tensor in self.now.items()}

    def load(self, state: State) -> None:
        self.now = {name: tensor.clone() for name, tensor in state.items()}
