"""Adaptive computation time (Graves, 1603.08983) written as plain loops, and an LSTM that uses it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from memory_cores.lstm.core import LSTM


def halts(spent: list[Tensor], h: Tensor, *, cap: int, epsilon: float) -> bool:
    """Whether the step with halting probability h, after steps with those in spent, is the last one (equation 6)."""
    return len(spent) + 1 == cap or (sum(spent) + h).item() >= 1 - epsilon


def weights(probabilities: list[Tensor], *, cap: int, epsilon: float) -> tuple[list[Tensor], int, Tensor]:
    """p_1, ..., p_N, N and R of the halting probabilities of as many steps as may be needed (equations 6 to 9)."""
    spent: list[Tensor] = []
    for h in probabilities:
        if halts(spent, h, cap=cap, epsilon=epsilon):
            break
        spent.append(h)
    remainder = 1 - sum(spent) if spent else torch.ones_like(probabilities[0])
    return [*spent, remainder], len(spent) + 1, remainder


def combined(halting: str, states: list[Tensor], weights: list[Tensor]) -> Tensor:
    """What the states of the steps come to."""
    result = torch.zeros_like(states[0])
    for state, p in zip(states, weights, strict=True):
        result = p * state + (1 - p) * result if halting == "tensor2tensor" else result + p * state
    return result


def halting_probability(unit: Any, state: Tensor) -> Tensor:
    """Equation 5."""
    return 1 / (1 + torch.exp(-(unit.weight[0] @ state + unit.bias[0])))


def lstm_step(core: LSTM, x: Tensor, h: list[Tensor], c: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """One step of all layers, from h and c (D,) of each, of one input."""
    new_h, new_c = [], []
    for layer in range(core.num_layers):
        w, u, b, d = (
            getattr(core.lstm, f"{name}_l{layer}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        i, f, g, o = (w @ x + b + u @ h[layer] + d).chunk(4)
        new_c.append(torch.sigmoid(f) * c[layer] + torch.sigmoid(i) * torch.tanh(g))
        new_h.append(torch.sigmoid(o) * torch.tanh(new_c[-1]))
        x = new_h[-1]
    return new_h, new_c


def adaptive_lstm(
    core: LSTM, x: Tensor, reset: Tensor
) -> tuple[Tensor, list[int], list[Tensor], tuple[list[Tensor], list[Tensor]]]:
    """One stream x (T, D) with reset (T,) from its beginning: outputs, N and R of every step, and the last h and c."""
    layers = range(core.num_layers)
    options = {"cap": core.max_ponder_steps, "epsilon": core.halting_epsilon}
    h, c = ([x.new_zeros(core.d_model) for _ in layers] for _ in range(2))
    outputs, taken, remainders = [], [], []
    for t in range(len(x)):
        if reset[t]:
            h, c = ([torch.zeros_like(state) for state in states] for states in (h, c))
        steps = []
        probabilities: list[Tensor] = []
        for n in range(core.max_ponder_steps):
            h, c = lstm_step(core, torch.cat([x[t], x.new_tensor([float(n == 0)])]), h, c)
            steps.append((h, c))
            probabilities.append(halting_probability(core.halting_unit, h[-1]))
        p, count, remainder = weights(probabilities, **options)
        h, c = ([combined(core.halting, [s[i][layer] for s in steps[:count]], p) for layer in layers] for i in (0, 1))
        outputs.append(h[-1])
        taken.append(count)
        remainders.append(remainder)
    return torch.stack(outputs), taken, remainders, (h, c)
