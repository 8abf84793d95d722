"""The Universal Transformer written as plain loops: over steps of time, and within each over steps of depth."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from memory_cores.universal.core import Universal
from tests.memory_cores import plain_act
from tests.memory_cores.test_transformer_xl import plain_attention, plain_norm, plain_residual


class PlainStream(NamedTuple):
    y: Tensor
    """(T, D)."""
    steps: list[int]
    """N of every step."""
    remainders: list[Tensor]
    """R of every step."""
    inputs: list[list[Tensor]]
    """For each depth step its inputs."""


def depth_signal(core: Universal, n: int) -> Tensor:
    """What is added to the input of depth step n, counted from 1."""
    if core.learned_signals is not None:
        return core.learned_signals[n - 1]
    angles = [n / 10000 ** (2 * i / core.d_model) for i in range(core.d_model // 2)]
    return torch.tensor([math.sin(a) for a in angles] + [math.cos(a) for a in angles], dtype=torch.float64)


def plain_stream(core: Universal, x: Tensor, reset: Tensor) -> PlainStream:
    """One stream x (T, D) with reset (T,) from its beginning, by the memory schedule."""
    n_m, g, cap = core.schedule.memory_length, core.schedule.granularity, core.max_ponder_steps
    block: Any = core.block
    inputs: list[list[Tensor]] = [[] for _ in range(cap)]
    entering: list[list[Tensor]] = [[] for _ in range(cap)]
    outputs, taken, remainders = [], [], []
    episode = 0

    def mlp(x: Tensor) -> Tensor:
        hidden = torch.relu(block.mlp.hidden.weight @ x + block.mlp.hidden.bias)
        return block.mlp.output.weight @ hidden + block.mlp.output.bias

    def transition(n: int, t: int) -> Tensor:
        if core.convolution is None:
            return mlp(entering[n - 1][t])
        taps = core.convolution.taps
        seen = range(min(core.convolution.width, t - episode + 1))
        return mlp(sum((taps[k] * entering[n - 1][t - k] for k in seen), torch.zeros_like(x[0])))

    def run(n: int, t: int) -> Tensor:
        """Depth step n of step t, whose inputs, also of earlier steps, are at hand."""
        first = max(0, g * math.floor((t - n_m) / g), episode)
        context = torch.stack([state + depth_signal(core, n) for state in inputs[n - 1]])
        if block.kind == "post":
            h = plain_norm(block.attention_norm, context[t] + plain_attention(core, block, context, t, first))
            entering[n - 1].append(h)
            return plain_norm(block.mlp_norm, h + transition(n, t))
        read = torch.stack([plain_norm(block.attention_norm, row) for row in context])
        attended = plain_attention(core, block, read, t, first)
        h = plain_residual(block, "attention_gate", context[t], attended)
        entering[n - 1].append(plain_norm(block.mlp_norm, h))
        return plain_residual(block, "mlp_gate", h, transition(n, t))

    for t in range(len(x)):
        episode = t if reset[t] else episode
        state, states = x[t], []
        spent: list[Tensor] = []
        halted = False
        for n in range(1, cap + 1):
            inputs[n - 1].append(state)
            if halted:
                entering[n - 1].append(entering[n - 2][t])
                continue
            state = run(n, t)
            states.append(state)
            if core.halting != "none":
                h = plain_act.halting_probability(core.halting_unit, state)
                halted = plain_act.halts(spent, h, cap=cap, epsilon=core.halting_epsilon)
                spent += [] if halted else [h]
        remainder = 1 - sum(spent) if spent else torch.ones(())
        taken.append(len(states))
        remainders.append(remainder)
        outputs.append(
            state if core.halting == "none" else plain_act.combined(core.halting, states, [*spent, remainder])
        )
    return PlainStream(torch.stack(outputs), taken, remainders, inputs)
