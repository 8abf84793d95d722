"""Adaptive computation time (Graves, 1603.08983): how many steps a position takes, and the weights of their states."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from memory_cores.core import CoreOutput, State
from memory_cores.options import CoreOptions, at_least, one_of

Halting = Literal["none", "graves", "tensor2tensor"]
"""none: no halting. graves: the result is the sum of the states s of all steps, each times its halting weight p; the
weights sum to 1. tensor2tensor: from zeros on, each state is interpolated into the result, p s + (1 - p) result, the
default of that library's Universal Transformer; the states' shares then sum to less than 1."""


@dataclass(frozen=True, kw_only=True)
class HaltingOptions(CoreOptions):
    """The options of every core with adaptive computation time."""

    halting: Halting = "graves"
    """Whether each step of a sequence decides for itself when to halt, and how its results are combined. graves: the
    paper's weighted sum; tensor2tensor: that library's interpolation; none: no halting, every step takes them all."""
    max_ponder_steps: int = 10
    """Most steps of computation that one step of a sequence may take. It bounds the cost of the hardest steps."""
    ponder_cost: float = 0.01
    """Weight of the ponder loss, the mean of steps taken plus remainder (equations 10 to 13; tau of the paper). A
    higher weight gives fewer steps and more error; the paper tries 1e-4 to 1e-1. Has no effect where halting is
    none."""
    halting_bias: float = 1.0
    """Initial bias of the halting unit (section 2, equation 5). With 1 training begins near two steps, with -3 at up to
    21."""
    halting_epsilon: float = 0.01
    """A step halts once its halting probabilities sum to 1 - epsilon (equation 7); in (0, 1). Above 0 so that a single
    step of computation can suffice."""

    def problems(self, d_model: int) -> list[str]:
        problems = super().problems(d_model)
        problems += one_of(Halting, halting=self.halting) + at_least(1, max_ponder_steps=self.max_ponder_steps)
        if not is_finite(self.ponder_cost) or self.ponder_cost < 0:
            problems.append(f"ponder_cost is {self.ponder_cost!r}, expected a number >= 0")
        if not is_finite(self.halting_bias):
            problems.append(f"halting_bias is {self.halting_bias!r}, expected a number")
        if not is_finite(self.halting_epsilon) or not 0 < self.halting_epsilon < 1:
            problems.append(f"halting_epsilon is {self.halting_epsilon!r}, expected a number in (0, 1)")
        return problems


SINGLE_SHARES = 8
"""With at most this many steps, metrics give the share of each number of steps; with more, of doubling ranges."""


class HaltingUnit(nn.Linear):
    """The probability sigmoid(w . s + b) that a position halts in state s (section 2, equation 5).

    With the paper's bias of 1 positions halt at the second step when training begins, with -3 only after up to 21. The
    unit computes in the precision of its weights, also under autocast, since the smallest difference may decide whether
    a position halts.
    """

    def __init__(self, d_model: int, bias: float) -> None:
        super().__init__(d_model, 1)
        nn.init.normal_(self.weight, std=0.1 * d_model**-0.5)
        nn.init.constant_(self.bias, bias)

    def forward(self, s: Tensor) -> Tensor:
        """(..., D) -> (...)."""
        with torch.autocast(s.device.type, enabled=False):
            return functional.linear(s.to(self.weight.dtype), self.weight, self.bias).squeeze(-1).sigmoid()


class HaltingProgress:
    """The halting of many positions, one step after another (section 2, equations 6 to 9).

    With the halting probabilities h_n, a position halts at the first step N at which h_1 + ... + h_N is at least
    1 - epsilon, or at step max_steps. Step n < N has the weight h_n, and step N the remainder R = 1 - (h_1 + ... +
    h_{N-1}); letters are the paper's.
    """

    def __init__(self, shape: torch.Size | tuple[int, ...], like: Tensor, *, max_steps: int, epsilon: float) -> None:
        self.max_steps = max_steps
        self.threshold = 1.0 - epsilon
        self.taken = 0
        self.running = torch.ones(shape, dtype=torch.bool, device=like.device)
        """(...), True where a position has not halted."""
        self.steps = torch.zeros(shape, dtype=torch.int64, device=like.device)
        """(...) int64, the steps that each position has taken; the paper's N once it has halted."""
        self.used = like.new_zeros(shape)
        """(...), the sum of the halting probabilities of the steps before the halt."""

    def weigh(self, probability: Tensor) -> Tensor:
        """The weights (...) of one more step with halting probabilities (...); 0 where a position had already
        halted."""
        self.taken += 1
        left, before = self.remainder, self.running
        self.steps = self.steps + before
        if self.taken == self.max_steps:
            self.running = torch.zeros_like(before)
            return left * before
        total = self.used + probability
        self.running = before & (total < self.threshold)
        self.used = torch.where(self.running, total, self.used)
        return torch.where(self.running, probability, left * before)

    @property
    def remainder(self) -> Tensor:
        """(...), the paper's R once a position has halted."""
        return 1.0 - self.used


def accumulate(halting: Halting, result: Tensor, state: Tensor, weight: Tensor) -> Tensor:
    """The result (..., D) so far, updated by a state (..., D) of weight (...); it starts from zeros."""
    if halting == "tensor2tensor":
        return torch.lerp(result, state, weight[..., None])
    return torch.addcmul(result, weight[..., None], state)


def output_with_ponder_loss(
    y: Tensor, state: State, steps: Tensor, remainder: Tensor, *, ponder_cost: float, max_steps: int
) -> CoreOutput:
    """The output of a call with its ponder loss and metrics, given the steps and remainders (...) of all positions.

    The loss is ponder_cost times the mean of steps + remainder (equations 10 to 13); its gradient passes through the
    remainder alone.
    """
    cost = ponder_cost * (steps + remainder).mean()
    metrics = {"ponder_steps": steps.to(remainder.dtype).mean()}
    for first, last in share_ranges(max_steps):
        name = f"ponder_share_{first}" if first == last else f"ponder_share_{first}_to_{last}"
        metrics[name] = ((steps >= first) & (steps <= last)).to(remainder.dtype).mean()
    return CoreOutput(y, state, {"ponder": cost}, metrics)


def share_ranges(max_steps: int) -> list[tuple[int, int]]:
    """The ranges of steps, both ends included, for which metrics give the share of positions."""
    if max_steps <= SINGLE_SHARES:
        return [(n, n) for n in range(1, max_steps + 1)]
    doublings = math.ceil(math.log2(max_steps))
    return [(1, 1), *((2**k + 1, min(2 ** (k + 1), max_steps)) for k in range(doublings))]


def is_finite(value: object) -> bool:
    """Whether an option is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
