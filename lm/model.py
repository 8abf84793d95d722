"""The language model: front end -> memory core -> head.

A front end turns the targets before each step into core inputs (B, T, D); a head turns core outputs (B, T, D) into a
distribution over the target of each step. Any front end and any head go with any core.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from memory_cores import CoreOutput, MemoryCore, State

IGNORED = -100
"""In place of a target where nothing is to be predicted."""


@dataclass(frozen=True)
class Sampling:
    """How targets are drawn; a head may refuse settings that its distribution does not have.

    >>> Sampling(temperature=0.8, top_k=40).top_p
    1.0
    >>> Sampling(top_p=0)
    Traceback (most recent call last):
    ValueError: expected temperature >= 0, top_k >= 1 and 0 < top_p <= 1, got 1.0, None and 0
    """

    temperature: float = 1.0
    """Divides the logits; 0 takes the likeliest target."""
    top_k: int | None = None
    """Draws from the k likeliest targets alone; None from all."""
    top_p: float = 1.0
    """Draws from the likeliest targets that have this probability together (Holtzman et al., 1904.09751)."""

    def __post_init__(self) -> None:
        """Raises ValueError for a setting out of its bounds."""
        if self.temperature < 0 or (self.top_k is not None and self.top_k < 1) or not 0 < self.top_p <= 1:
            raise ValueError(
                f"expected temperature >= 0, top_k >= 1 and 0 < top_p <= 1, "
                f"got {self.temperature}, {self.top_k} and {self.top_p}"
            )


class FrontEnd(nn.Module, ABC):
    """Core inputs from the target before each step."""

    @abstractmethod
    def forward(self, inputs: Tensor, reset: Tensor | None) -> Tensor:
        """Core inputs (..., D) of the targets before each step (...) int64.

        reset: (...) bool, True at the first step of a document, whose input means nothing; None for none.
        """

    def __call__(self, inputs: Tensor, reset: Tensor | None) -> Tensor:
        x: Tensor = super().__call__(inputs, reset)
        return x


class Head(nn.Module, ABC):
    """A distribution over the target of each step, from the core's outputs."""

    @abstractmethod
    def losses(self, y: Tensor, targets: Tensor) -> Tensor:
        """- log p(target) in nats (...) float32, from y (..., D) and targets (...) int64; 0 at IGNORED targets."""

    @abstractmethod
    def sample(self, y: Tensor, sampling: Sampling, generator: torch.Generator) -> Tensor:
        """Targets (N,) int64 drawn from y (N, D); `generator` is on the CPU."""


class LanguageModel(nn.Module):
    """p(target at t | targets before t in its document), over one memory core."""

    def __init__(self, front_end: FrontEnd, core: MemoryCore, head: Head) -> None:
        super().__init__()
        self.front_end = front_end
        self.core = core
        self.head = head

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    def forward(self, inputs: Tensor, state: State, reset: Tensor | None = None) -> CoreOutput:
        """B rows of T steps at once: inputs (B, T) int64, the target before each step; reset (B, T) bool.

        `head` says what the outputs y (B, T, D) mean.
        """
        return self.core(self.front_end(inputs, reset), state, reset)

    def __call__(self, inputs: Tensor, state: State, reset: Tensor | None = None) -> CoreOutput:
        output: CoreOutput = super().__call__(inputs, state, reset)
        return output
