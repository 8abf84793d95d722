"""The base class of the cores that attend to a scheduled memory, and their common options."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from memory_cores.attention.attention import Attention
from memory_cores.attention.block import BlockKind, TransformerBlock
from memory_cores.attention.positions import (
    Positions,
    RelativePositions,
    RotaryPositions,
    farthest_distance,
    nearest_distance,
    rotary_table,
    sinusoids,
)
from memory_cores.attention.reversible import ReversibleCall, run_reversible
from memory_cores.attention.schedule import MemorySchedule, Window
from memory_cores.core import MemoryCore, State
from memory_cores.options import CoreOptions, at_least, multiple_of, one_of, probability


@dataclass(frozen=True, kw_only=True)
class MemoryOptions(CoreOptions):
    """The options of every core that attends to a scheduled memory, whatever its blocks are."""

    position_kinds: ClassVar[Any] = Positions
    """The Literal type of the kinds of positions that the core has."""

    num_heads: int = 4
    """Attention heads H of width W = d_model / H (Vaswani et al., 1706.03762, section 3.2.2); must divide d_model. More
    heads attend to more places at once, each with less width."""
    d_ff: int | None = None
    """Width of the MLP's hidden layer; null is 4 d_model, as the papers have it. A narrower one trades capacity for
    speed."""
    memory_length: int = 64
    """How many steps before its own turn of the schedule a step attends to, whatever the length of a call. Set it to
    the distance over which steps must be remembered exactly; cost grows in proportion. May differ between training and
    evaluation."""
    positions: Positions = "relative"
    """How attention knows distance. relative: Transformer-XL's (Dai et al., 1901.02860, section 3.3); rotary: Su et
    al., 2104.09864, on torch's fused kernels; none: by content alone, for inputs whose order does not matter."""
    dropout: float = 0.0
    """Dropout rate of the attention weights, of the MLP's hidden layer and of both sublayers' outputs; 0 or more and
    below 1. Raise it where the held-out loss rises while the training loss falls."""

    def problems(self, d_model: int) -> list[str]:
        problems = super().problems(d_model)
        problems += at_least(1, num_heads=self.num_heads) + at_least(0, memory_length=self.memory_length)
        problems += at_least(1, d_ff=self.d_ff) if self.d_ff is not None else []
        problems += one_of(self.position_kinds, positions=self.positions) + probability(dropout=self.dropout)
        if not at_least(1, d_model=d_model, num_heads=self.num_heads):
            problems += self.width_problems(d_model)
        return problems

    def width_problems(self, d_model: int) -> list[str]:
        """The problem of a width that does not suit the number of heads or the kind of positions."""
        if d_model % self.num_heads:
            return multiple_of(self.num_heads, "num_heads", d_model=d_model)
        if self.positions == "rotary" and d_model // self.num_heads % 2:
            return [f"d_model is {d_model}, expected an even d_model / num_heads for rotary positions"]
        if self.positions == "relative" and d_model % 2:
            return [f"d_model is {d_model}, expected an even number for relative positions"]
        return []

    @property
    def ends_with_norm(self) -> bool:
        """Whether a layer norm follows the last block, as it must where blocks do not normalise their output."""
        return True


@dataclass(frozen=True, kw_only=True)
class AttentionOptions(MemoryOptions):
    """The options of every core whose blocks are `TransformerBlock`s over a scheduled memory."""

    block: BlockKind = "gtrxl"
    """Order of norm, residual and gate. gtrxl: GRU gates, for agents (Parisotto et al., 1910.06764, section 3.2);
    trxl_i: its ungated form; post: post-norm, as in the papers' language models; pre: plain pre-norm, easiest to train
    when deep."""
    final_norm: bool | None = None
    """Whether a layer norm follows the last block; null adds one after `pre` blocks alone, whose output is not
    normalised."""
    mlp_chunk_length: int | None = None
    """Steps for which the MLP is computed at a time, and once more for the gradient, so that its hidden layer takes
    memory for these alone (Kitaev et al., 2001.04451, section 3); null computes all at once. Set it where
    long segments do not fit in memory."""

    def problems(self, d_model: int) -> list[str]:
        problems = super().problems(d_model) + one_of(BlockKind, block=self.block)
        if self.mlp_chunk_length is not None:
            problems += at_least(1, mlp_chunk_length=self.mlp_chunk_length)
        return problems

    @property
    def ends_with_norm(self) -> bool:
        return self.block == "pre" if self.final_norm is None else self.final_norm

    def blocks(self, d_model: int, count: int) -> list[TransformerBlock]:
        """`count` blocks with freshly drawn weights."""
        heads = self.num_heads, self.dropout, self.positions
        return [self.block_around(Attention(d_model, *heads), d_model) for _ in range(count)]

    def block_around(self, attention: nn.Module, d_model: int) -> TransformerBlock:
        """A block of width `d_model` around an attention module, with freshly drawn weights."""
        d_ff = 4 * d_model if self.d_ff is None else self.d_ff
        return TransformerBlock(
            attention,
            d_model=d_model,
            d_ff=d_ff,
            kind=self.block,
            dropout=self.dropout,
            mlp_chunk_length=self.mlp_chunk_length,
        )


@dataclass(frozen=True, kw_only=True)
class ReversibleOptions(AttentionOptions):
    """The options of attention cores whose blocks may be reversible."""

    reversible: bool = False
    """Whether blocks are reversible, so that their inputs are computed again from their outputs and memory for the
    gradient does not grow with num_layers (Kitaev et al., 2001.04451, section 3). It costs one more forward pass in
    training. The block must be pre or trxl_i. Models with and without it do not share weights that work."""

    def problems(self, d_model: int) -> list[str]:
        problems = super().problems(d_model)
        if self.reversible and self.block in ("post", "gtrxl"):
            problems.append(f"block is {self.block!r}, expected pre or trxl_i with reversible")
        return problems


class MemoryTransformer(MemoryCore):
    """Blocks over a memory that follows a schedule, and the positions of its steps and slots.

    A block is called as block(x, memory, views, positions, ...) with the layer inputs x (B, T, D) and memory (B, M, D).
    """

    def __init__(
        self,
        d_model: int,
        options: MemoryOptions,
        schedule: MemorySchedule,
        make_blocks: Callable[[], Iterable[nn.Module]],
    ) -> None:
        """make_blocks: is called once the options have been checked."""
        super().__init__(d_model, options)
        self.schedule = schedule
        self.period = schedule.granularity
        self.positions = options.positions
        self.head_width = d_model // options.num_heads
        self.reversible = isinstance(options, ReversibleOptions) and options.reversible
        self.blocks = nn.ModuleList(make_blocks())
        self.num_layers = len(self.blocks)
        if self.positions == "relative":
            self.content_bias = nn.Parameter(torch.empty(options.num_heads, 1, self.head_width))
            self.position_bias = nn.Parameter(torch.empty(options.num_heads, 1, self.head_width))
            nn.init.normal_(self.content_bias, std=0.02)
            nn.init.normal_(self.position_bias, std=0.02)
        self.final_norm: nn.LayerNorm | None = None
        if options.ends_with_norm:
            self.final_norm = nn.LayerNorm(d_model)

    def empty_state(self, batch_size: int, device: torch.device | str | None, **shapes: tuple[int, ...]) -> State:
        """A state of zeros: tensors (B, *shape) of the parameters' type, age and phase (B,) int64."""
        weight = next(self.parameters())
        device = weight.device if device is None else device
        tensors = {
            name: torch.zeros(batch_size, *shape, dtype=weight.dtype, device=device) for name, shape in shapes.items()
        }
        counts = {name: torch.zeros(batch_size, dtype=torch.int64, device=device) for name in ("age", "phase")}
        return tensors | counts

    def run_blocks(self, x: Tensor, memory: Tensor, *call: object) -> tuple[Tensor, list[Tensor]]:
        """The output (B, T, D) of the core for x (B, T, D), and the inputs (B, T, D) of its L blocks, to be remembered;
        of reversible ones the last alone, as many as the memory holds.

        memory: (B, L, M, D), the remembered inputs of each block. call: what all blocks of a call share.
        """
        if self.reversible:
            blocks = [cast(TransformerBlock, block) for block in self.blocks]
            biases = (self.content_bias, self.position_bias) if self.positions == "relative" else ()
            x, inputs = run_reversible(ReversibleCall(blocks, memory, call, biases, self.schedule.capacity), x)
            return self.normalise_output(x), inputs
        inputs = []
        for layer, block in enumerate(self.blocks):
            inputs.append(x.detach())
            x = block(x, memory[:, layer], *call)
        return self.normalise_output(x), inputs

    def normalise_output(self, x: Tensor) -> Tensor:
        """The output (..., D) of the core for the output (..., D) of the last block."""
        return x if self.final_norm is None else self.final_norm(x)

    def call_positions(self, window: Window, *, like: Tensor) -> RelativePositions | RotaryPositions | None:
        """The positions of a call, which all layers share, with the dtype and device of `like`."""
        if self.positions == "relative":
            runs = [(run, view.stop - view.start) for view in window.views for run in view.runs]
            farthest = max(farthest_distance(run, steps) for run, steps in runs)
            nearest = min(nearest_distance(run) for run, _ in runs)
            distances = torch.arange(farthest, nearest - 1, -1, device=like.device)
            table = sinusoids(distances, self.d_model, like.dtype)
            return RelativePositions(table, farthest, self.content_bias, self.position_bias)
        return self.rotary_positions(window, self.head_width, like=like) if self.positions == "rotary" else None

    def rotary_positions(self, window: Window, head_width: int, *, like: Tensor) -> RotaryPositions:
        """The cosines and sines, each (N, head_width / 2), of a call's keys and queries, on the device of `like`."""
        times = self.schedule.times(window, like.device)
        cosine, sine = rotary_table(times, head_width, like.dtype)
        steps = slice(len(times) - window.episode.shape[1], None)
        return RotaryPositions((cosine, sine), (cosine[steps], sine[steps]))
