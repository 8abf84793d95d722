"""Plain loops in float64 for cores that attend to chosen steps: one query at a time, over an explicit set of keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor

from memory_cores.attention.band_transformer import BandTransformer
from memory_cores.attention.block import TransformerBlock
from memory_cores.attention.positions import rotary_table, rotate

Attend = Callable[[TransformerBlock, Tensor, int], Tensor]
"""The contexts (T, D) of the attention of a layer, before its output projection, for its input (T, D) and the time of
the first step."""


def plain_core(core: BandTransformer, x: Tensor, reset: Tensor, attend: Attend) -> Tensor:
    """The outputs (B, T, D) of a core from its initial state, each episode of each row by itself."""
    rows = []
    for row, begins in zip(x, reset, strict=True):
        starts = sorted({0, *begins.nonzero().flatten().tolist()})
        episodes = [
            plain_episode(core, row[start:stop], attend, start)
            for start, stop in zip(starts, [*starts[1:], len(row)], strict=True)
        ]
        rows.append(torch.cat(episodes))
    return torch.stack(rows)


def plain_episode(core: BandTransformer, x: Tensor, attend: Attend, start: int) -> Tensor:
    """The outputs (T, D) of one episode, which begins at step `start` of its stream."""
    for module in core.blocks:
        block = cast(TransformerBlock, module)
        attention = block.get_submodule("attention")
        attended = attention.get_submodule("output")(attend(block, block.normalise_memory(x), start))
        h = block.after_attention(x, attended)
        x = block.after_mlp(h, block.mlp(block.mlp_input(h)))
    return core.normalise_output(x)


def attend_to(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """softmax(q . k / sqrt(W)) v of one query (W,) and keys and values (N, W), zeros where there are none."""
    if not len(keys):
        return torch.zeros_like(query)
    return (keys @ query / query.shape[-1] ** 0.5).softmax(dim=0) @ values


def turned(core: BandTransformer, x: Tensor) -> Tensor:
    """(T, W) rotated by its positions, where the core has them."""
    if core.positions != "rotary":
        return x
    return rotate(x, *rotary_table(torch.arange(len(x)), x.shape[-1], x.dtype))


def random_episodes(core: BandTransformer, steps: int, seed: int) -> tuple[Tensor, Tensor]:
    """Inputs (2, T, D) and resets (2, T) with a few episodes."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, steps, core.d_model, generator=generator, dtype=torch.float64)
    return x, torch.rand(2, steps, generator=generator) < 0.1


def assert_causal(core: BandTransformer, x: Tensor, reset: Tensor) -> None:
    """A change of x (B, T, D) from any step on changes no output before it."""
    y = core(x, core.initial_state(len(x)), reset).y
    for step in range(1, x.shape[1]):
        changed = torch.cat([x[:, :step], torch.randn_like(x[:, step:])], dim=1)
        other = core(changed, core.initial_state(len(x)), reset).y
        torch.testing.assert_close(other[:, :step], y[:, :step])
