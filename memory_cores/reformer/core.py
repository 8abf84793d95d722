"""The Reformer (Kitaev et al., 2001.04451), causal and over a sliding past."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from memory_cores.attention.band_transformer import BandOptions, BandTransformer
from memory_cores.attention.block import TransformerBlock
from memory_cores.attention.schedule import MemorySchedule
from memory_cores.core import State
from memory_cores.options import at_least
from memory_cores.reformer.attention import HashedAttention
from memory_cores.reformer.stream import ReformerStream


@dataclass(frozen=True, kw_only=True)
class ReformerOptions(BandOptions):
    """The options of `Reformer`."""

    num_hashes: int = 2
    """Rounds of hashing (section 2). More rounds find more of the similar steps, and cost
    grows in proportion; there may be more at evaluation than in training (table 2)."""
    num_buckets: int = 4
    """Hash buckets of a round: even, or 1 for no hashing. More buckets are more specific and have fewer members; the
    paper has one for each 64 steps or fewer."""
    window: int = 16
    """Latest members of its bucket that a step sees in a round, at most memory_length. About memory_length divided by
    num_buckets lets most of the memory be seen."""
    hash_seed: int = 0
    """Seed of the rotations of a new state, 0 or more. A state carries its own, so it may differ from row to row."""

    def problems(self, d_model: int) -> list[str]:
        problems = super().problems(d_model)
        problems += at_least(1, num_layers=self.num_layers, num_hashes=self.num_hashes, num_buckets=self.num_buckets)
        problems += at_least(1, window=self.window, memory_length=self.memory_length)
        problems += at_least(0, hash_seed=self.hash_seed)
        if not at_least(2, num_buckets=self.num_buckets) and self.num_buckets % 2:
            problems.append(f"num_buckets is {self.num_buckets}, expected an even number, or 1 for no hashing")
        if not at_least(1, window=self.window, memory_length=self.memory_length) and self.window > self.memory_length:
            problems.append(f"window is {self.window}, expected at most memory_length, {self.memory_length}")
        return problems

    def make_block(self, d_model: int, layer: int) -> TransformerBlock:
        """A block with newly drawn weights."""
        attention = HashedAttention(
            d_model,
            self.num_heads,
            self.dropout,
            layer=layer,
            num_hashes=self.num_hashes,
            num_buckets=self.num_buckets,
            window=self.window,
        )
        return self.block_around(attention, d_model)


class Reformer(BandTransformer):
    """Reformer: each step attends to those that fall into its hash buckets; gated by default.

    In each round r a random rotation R_r gives the unit key k_t of step t the bucket (section 2)

        h_r(t) = argmax [k_t R_r; -k_t R_r],   y_t = sum_j softmax_j(q_t . k_j / sqrt(W)) v_j

    where j runs over the union of the last `window` members of the bucket in each round, j < t, among the last
    memory_length steps of the episode, and k = q / |q|. A step attends to itself only where it has no other target. The
    rounds are combined by the log-sum-exp of their scores, in which a pair that several rounds find counts once
    (appendix A). The paper cuts the sorted sequence into chunks, so that later steps decide what earlier ones see; here
    a step sees the latest members of its bucket, so a stream can be stepped. An independent plain loop is in
    tests/memory_cores/test_reformer.py.

    State: memory (B, L, C, D), the last C = memory_length inputs of each layer, newest last, zeros where unused; seed
    (B,) int64, from which the rotations are drawn; age (B,) int64, steps of the episode, at most C; phase (B,) int64,
    0. The parameters depend on none of memory_length, num_hashes, num_buckets and window, so these may differ between
    training and evaluation.

    >>> import memory_cores
    >>> core = memory_cores.build("reformer", d_model=8, memory_length=16)
    >>> x, stream = torch.randn(2, 9, 8), core.stream(batch_size=2)
    >>> y = core(x, core.initial_state(batch_size=2)).y
    >>> stepped = torch.stack([stream.step(x[:, t]) for t in range(9)], dim=1)
    >>> torch.allclose(y, stepped, atol=1e-5)
    True
    """

    Options = ReformerOptions

    def __init__(self, d_model: int, options: ReformerOptions) -> None:
        schedule = MemorySchedule(options.memory_length, 1)
        super().__init__(
            d_model,
            options,
            schedule,
            lambda: [options.make_block(d_model, layer) for layer in range(options.num_layers)],
        )
        self.hash_seed = options.hash_seed

    def initial_state(self, batch_size: int, device: torch.device | str | None = None) -> State:
        state = super().initial_state(batch_size, device)
        return state | {"seed": torch.full_like(state["age"], self.hash_seed)}

    def shared(self, state: State) -> tuple[Tensor, ...]:
        """The seeds (B,) of the rotations."""
        return (state["seed"],)

    def stream(self, batch_size: int) -> ReformerStream:
        return ReformerStream(self, batch_size)
