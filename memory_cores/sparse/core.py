"""The Sparse Transformer (Child et al., 1904.10509) over a sliding past."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from memory_cores.attention.band_transformer import BandOptions, BandTransformer
from memory_cores.attention.block import TransformerBlock
from memory_cores.attention.schedule import MemorySchedule
from memory_cores.layers.initialisation import fan_in_normal_
from memory_cores.options import at_least, multiple_of, one_of
from memory_cores.sparse.attention import Pattern, Reach, SparseAttention
from memory_cores.sparse.stream import SparseStream

Combination = Literal["interleaved", "merged", "split"]


@dataclass(frozen=True, kw_only=True)
class SparseOptions(BandOptions):
    """The options of `Sparse`."""

    pattern: Pattern = "strided"
    """Which steps a step attends to. strided: the last `stride` steps and every stride-th step before them, for data
    with a period, such as sound and images; fixed: the steps of its own block of `stride` steps and the last cells of
    earlier blocks, for text and other data without one."""
    combination: Combination = "merged"
    """How the two sets of a pattern are shared out. merged: every head sees their union; interleaved: odd layers see
    the near one and even layers the distant one, which is cheapest; split: half of the heads see each."""
    stride: int = 8
    """Steps l between the distant ones, and steps in a near set; memory_length must be a multiple of it. About the
    square root of memory_length costs least. With the fixed pattern, unroll and segment lengths must be multiples of
    it."""
    summary_length: int = 2
    """Summary cells c at the end of each block of the fixed pattern, of its own for each head as far as there are any;
    the paper has 8 to 32 in blocks of 128 to 256. More let more of the past through and cost in proportion. The strided
    pattern has none."""

    def problems(self, d_model: int) -> list[str]:
        problems = super().problems(d_model)
        problems += one_of(Pattern, pattern=self.pattern) + one_of(Combination, combination=self.combination)
        sizes = at_least(1, num_layers=self.num_layers, stride=self.stride, summary_length=self.summary_length)
        problems += sizes
        if self.combination == "split" and self.num_heads == 1:
            problems.append("num_heads is 1, expected 2 or more for the combination split")
        if not at_least(1, stride=self.stride) and not at_least(0, memory_length=self.memory_length):
            if self.memory_length < self.stride:
                problems.append(f"stride is {self.stride}, expected at most memory_length, {self.memory_length}")
            else:
                problems += multiple_of(self.stride, "stride", memory_length=self.memory_length)
        if not sizes and self.pattern == "fixed" and self.summary_length > self.stride:
            problems.append(f"summary_length is {self.summary_length}, expected at most stride, {self.stride}")
        return problems

    def reaches(self, layer: int) -> tuple[tuple[slice, Reach], ...]:
        """What the heads of a layer see."""
        if self.combination == "merged":
            return ((slice(0, self.num_heads), "both"),)
        if self.combination == "interleaved":
            return ((slice(0, self.num_heads), "far" if layer % 2 else "near"),)
        half = self.num_heads // 2
        return (slice(0, half), "near"), (slice(half, self.num_heads), "far")

    def make_blocks(self, d_model: int) -> list[TransformerBlock]:
        """The blocks, with the paper's initial weights: N(0, 0.125^2 / inputs), and those that write to the residual
        stream smaller by sqrt(2 num_layers)."""
        blocks = []
        for layer in range(self.num_layers):
            attention = SparseAttention(
                d_model,
                self.num_heads,
                self.dropout,
                pattern=self.pattern,
                reaches=self.reaches(layer),
                stride=self.stride,
                count=self.memory_length // self.stride,
                summary_length=min(self.summary_length, self.stride),
            )
            block = self.block_around(attention, d_model)
            for entering in (attention.qkv, block.mlp.hidden):
                fan_in_normal_(entering, 0.125)
            for leaving in (attention.output, block.mlp.output):
                fan_in_normal_(leaving, 0.125 * (2 * self.num_layers) ** -0.5)
            blocks.append(block)
        return blocks


class Sparse(BandTransformer):
    """Sparse Transformer: each step attends to its neighbours and to every stride-th step; gated by default.

    With the stride l, step t attends, among the last memory_length steps of its episode, to

        strided   A1 = {j : t - l <= j <= t}               A2 = {j : (t - j) mod l = 0}
        fixed     A1 = {j : floor(j / l) = floor(t / l)}   A2 = {j : j mod l in the c cells of the head}

    where j <= t, so that a layer costs O(T (l + memory_length / l)) and not O(T memory_length). A step whose A2 is
    empty gets zeros from the attention. The paper's sequences are of one length with positions of their own; here the
    past slides along, streams have no end, and positions are rotary. Independent dense masks are in
    tests/memory_cores/test_sparse.py.

    State: memory (B, L, C, D), the last inputs of each layer, newest last, zeros where unused, C = memory_length and
    with the fixed pattern stride - 1 more; age (B,) int64, steps of the episode, at most C; phase (B,) int64, steps
    seen modulo the stride with the fixed pattern. The parameters do not depend on memory_length, stride and
    summary_length, so these may differ between training and evaluation.

    >>> import memory_cores, torch
    >>> core = memory_cores.build("sparse", d_model=8, memory_length=6, stride=3)
    >>> x, stream = torch.randn(2, 9, 8), core.stream(batch_size=2)
    >>> y = core(x, core.initial_state(batch_size=2)).y
    >>> stepped = torch.stack([stream.step(x[:, t]) for t in range(9)], dim=1)
    >>> torch.allclose(y, stepped, atol=1e-5)
    True
    """

    Options = SparseOptions

    def __init__(self, d_model: int, options: SparseOptions) -> None:
        schedule = MemorySchedule(options.memory_length, options.stride if options.pattern == "fixed" else 1)
        super().__init__(d_model, options, schedule, lambda: options.make_blocks(d_model))

    def stream(self, batch_size: int) -> SparseStream:
        return SparseStream(self, batch_size)
