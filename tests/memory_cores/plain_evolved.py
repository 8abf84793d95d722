"""The Evolved Transformer's decoder cell written as plain loops over cells, sublayers and steps."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from memory_cores.evolved.core import Evolved
from tests.memory_cores.test_transformer_xl import plain_attention, plain_norm


class PlainStream(NamedTuple):
    y: Tensor
    """(T, D)."""
    inputs: list[Tensor]
    """For each attention its inputs (T, D)."""
    branches: list[Tensor]
    """For each cell the inputs (T, D) of its two branches."""
    joined: list[Tensor]
    """For each cell the inputs (T, 2 D) of the convolution of their sum."""


def doubled(heads: int) -> int:
    """The heads of a cell's first attention."""
    if heads > 16:
        return heads
    return 2 * heads if heads <= 8 else 16


def plain_convolution(separable: Any, x: Tensor, t: int, begin: int) -> Tensor:
    """Step t of a separable convolution of x (T, channels) in an episode that begins at a step."""
    taps = separable.depthwise.taps
    mixed = torch.zeros_like(x[0])
    for back in range(len(taps)):
        if t - back >= begin:
            mixed = mixed + taps[back] * x[t - back]
    return separable.pointwise.weight @ mixed + separable.pointwise.bias


def plain_stream(core: Evolved, x: Tensor, reset: Tensor, num_heads: int) -> PlainStream:
    """One stream x (T, D) with reset (T,) from its beginning, by the memory schedule."""
    n, g, width = core.schedule.memory_length, core.schedule.granularity, core.d_model
    steps = range(len(x))
    begins = [max((s for s in range(t + 1) if reset[s]), default=0) for t in steps]

    def attend(block: Any, heads: int, x: Tensor) -> Tensor:
        of_heads: Any = SimpleNamespace(d_model=width, head_width=width // heads, positions=core.positions)
        if core.positions == "relative":
            of_heads.content_bias = core.content_bias.flatten().view(heads, 1, -1)
            of_heads.position_bias = core.position_bias.flatten().view(heads, 1, -1)
        context = torch.stack([plain_norm(block.attention_norm, row) for row in x])
        firsts = [max(0, g * math.floor((t - n) / g), begins[t]) for t in steps]
        return torch.stack([x[t] + plain_attention(of_heads, block, context, t, firsts[t]) for t in steps])

    inputs, branches, joined = [], [], []
    blocks: list[Any] = list(core.blocks)
    for first, second in zip(blocks[::2], blocks[1::2], strict=True):
        inputs.append(x)
        h = attend(first, doubled(num_heads), x)
        entering = torch.stack([plain_norm(first.branch_norm, row) for row in h])
        sums = []
        for t in steps:
            left = torch.relu(plain_convolution(first.left, entering, t, begins[t]))
            right = plain_convolution(first.right, entering, t, begins[t])
            both = [left[i] + right[i] if i < width // 2 else left[i] for i in range(2 * width)]
            sums.append(plain_norm(first.join_norm, torch.stack(both)))
        joint = torch.stack(sums)
        z = torch.stack([h[t] + plain_convolution(first.join, joint, t, begins[t]) for t in steps])
        branches.append(entering)
        joined.append(joint)
        inputs.append(z)
        outputs = []
        for h in attend(second, num_heads, z):
            hidden = second.hidden.weight @ plain_norm(second.dense_norm, h) + second.hidden.bias
            swish = hidden / (1 + torch.exp(-hidden))
            outputs.append(h + second.output.weight @ plain_norm(second.hidden_norm, swish) + second.output.bias)
        x = torch.stack(outputs)
    y = torch.stack([plain_norm(core.final_norm, row) for row in x])
    return PlainStream(y, inputs, branches, joined)
