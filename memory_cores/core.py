"""The contract of a memory core: (B, T, D) and a state in, (B, T, D) and a state out.

Letters of shapes mean the same in every file (docs/glossary.md): B rows of a batch, which are independent streams; T
steps of one call; D width of the core; L layers; H attention heads, of width W; K keys that a query may attend to; C
steps that the state remembers; M compressed slots and remembered steps before a call.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from memory_cores.options import CoreOptions

SumInPlace = Callable[[Tensor], None]
"""Replaces a tensor by its sum over all processes that train one model."""
State = dict[str, Tensor]
"""What a core remembers: a flat dict of batch-first tensors of constant size. The module itself keeps no state."""


class CoreOutput(NamedTuple):
    """What one call of a core returns."""

    y: Tensor
    """(B, T, D), the outputs."""
    state: State
    """The state after the last step; carries no gradient."""
    losses: dict[str, Tensor]
    """Scalars that the trainer adds to its loss."""
    metrics: dict[str, Tensor]
    """Detached scalars to be logged."""


class MemoryCore(nn.Module, ABC):
    """A recurrent map over sequences, whose memory is explicit data.

    Every core obeys the seven laws that `memory_cores.testing` states: chunk invariance, acting is learning,
    causality, reset isolation, row independence, bounded state, finite gradients that stop at the state.
    """

    Options: ClassVar[type[CoreOptions]] = CoreOptions
    """The dataclass of the core's options; `CoreOptions` itself has no fields."""
    d_model: int
    period: int = 1
    """Steps in one turn of the memory schedule. Rows of one batch share a phase, so unroll and segment lengths of
    trainers that batch rows of different streams must be multiples of it."""

    def __init__(self, d_model: int, options: CoreOptions) -> None:
        """A core of width `d_model` with newly drawn weights; `options` is an instance of `Options`.

        Raises OptionsError, a ValueError that lists all problems, if the options are not valid.
        """
        options.check(type(self).__name__, d_model)
        super().__init__()
        self.d_model = d_model

    @abstractmethod
    def initial_state(self, batch_size: int, device: torch.device | str | None = None) -> State:
        """The state of `batch_size` streams before their first step, on `device` (the parameters' device if None)."""

    @abstractmethod
    def forward(self, x: Tensor, state: State, reset: Tensor | None = None) -> CoreOutput:
        """Run T steps.

        x: (B, T, D). reset: (B, T) bool, True where x[b, t] is the first step of a new episode or document.
        Raises ValueError for tensors whose shapes do not fit the core and for rows that differ in their schedule's
        phase.
        """

    def after_update(self, sum_over_workers: SumInPlace | None = None) -> None:
        """Learn what is learned without gradients; trainers call it after each update of the weights.

        sum_over_workers: adds up a tensor over all processes that train the model; None for a single one. A core whose
        buffers are learned from what `forward` has seen in training overrides it; others have nothing to do.
        """

    def stream(self, batch_size: int) -> Stream:
        """A stepper for `batch_size` streams from the initial state, with this core's current weights.

        Unless a core overrides it with something faster, the stepper calls `forward` with one step at a time.
        """
        return ForwardStream(self, batch_size)

    def __call__(self, x: Tensor, state: State, reset: Tensor | None = None) -> CoreOutput:
        output: CoreOutput = super().__call__(x, state, reset)
        return output


class Stream(ABC):
    """Runs a core one step a call, without gradients; its outputs equal those of `forward` on the whole sequence.

    It is used by actors, evaluation and generation, and may cache whatever follows from weights and state.
    """

    @abstractmethod
    def step(self, x: Tensor, reset: Tensor | None = None) -> Tensor:
        """One step: x (B, D), reset (B,) bool -> y (B, D)."""

    @abstractmethod
    def state(self) -> State:
        """The present state, as `forward` would have returned it; later steps do not change it."""

    @abstractmethod
    def load(self, state: State) -> None:
        """Continue from `state`, whose batch size must be the stream's."""

    def refresh(self) -> None:
        """Rebuild what is cached of the weights; to be called after they change."""
        self.load(self.state())


class ForwardStream(Stream):
    """Steps a core by calling `forward` with one step at a time."""

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
