"""Single steps of an infinity-former whose short-term and long-term keys and values are cached."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from memory_cores.continuous_signal import SignalOperators
from memory_cores.core import State
from memory_cores.long_term_attention import LongTermAttention
from memory_cores.sticky_memory import StickySampler
from memory_cores.transformer_xl_stream import TransformerXLStream

if TYPE_CHECKING:
    from memory_cores.infinity import Infinity


class InfinityStream(TransformerXLStream):
    """Steps an `Infinity` core; its long-term memories are refitted once in `granularity` steps."""

    core: Infinity
    long_term: list[LongTermCache]
    holds: Tensor
    """(B,) bool, True where the long-term memory holds anything of the episode of the last step."""
    key: Tensor
    refits: Tensor
    """Both (B,), of the generators of sticky memories."""

    def forget(self, reset: Tensor) -> None:
        super().forget(reset)
        self.hold(self.holds & ~reset)

    def prepare(self) -> None:
        super().prepare()
        if self.core.schedule.due(self.phase):
            self.turn()

    def turn(self) -> None:
        """Let the block that leaves the memory before the step at hand enter the long-term memories."""
        schedule = self.core.schedule
        end = self.place - schedule.memory_length
        first = end - schedule.granularity
        continued = self.episode_place < first
        places = torch.arange(first, end, device=continued.device)
        kept = (places >= self.episode_place[:, None])[:, None]  # (B, 1, g)
        for layer, (block, long_term) in enumerate(zip(self.blocks, self.long_term, strict=True)):
            leaving = block.block.normalise_memory(self.inputs[layer, :, None, first:end])
            entering = long_term.attention.masked(leaving, kept)[:, 0]
            long_term.refit(entering, continued, self.core.uniforms(self.key, self.refits, layer))
        self.refits = torch.where(continued, self.refits + 1, 0)
        self.hold(self.episode_place < end)

    def hold(self, holds: Tensor) -> None:
        """Let the rows where holds (B,) read their long-term memory, others not."""
        self.holds = holds
        asleep, empty = not holds.any(), None if holds.all() else ~holds[:, None]
        for long_term in self.long_term:
            long_term.asleep, long_term.empty = asleep, empty

    @torch.inference_mode(False)
    @torch.no_grad()
    def state(self) -> State:
        state = super().state()
        coefficients = torch.stack([long_term.coefficients for long_term in self.long_term], dim=1)
        state["coefficients"] = coefficients.masked_fill_(~self.holds[:, None, None, None], 0.0)
        if self.core.sticky:
            histograms = [cast(StickySampler, long_term.sticky).histogram for long_term in self.long_term]
            state["histogram"] = torch.stack(histograms, dim=1).masked_fill_(~self.holds[:, None, None], 0.0)
            state["generator"] = torch.stack([self.key, self.refits.masked_fill(~self.holds, 0)], dim=1)
        return state

    @torch.inference_mode(False)
    @torch.no_grad()
    def load(self, state: State) -> None:
        super().load(state)
        self.key, self.refits = (tensor.clone() for tensor in generator_of(state))
        with torch.autocast(self.key.device.type, enabled=False):
            self.long_term = [LongTermCache(self.core, layer, state) for layer in range(self.core.num_layers)]
        for block, long_term in zip(self.blocks, self.long_term, strict=True):
            block.beside = long_term
        self.hold(self.core.schedule.held(state["age"], self.phase))


class LongTermCache:
    """One layer's long-term memory with its keys: a function that a cached block calls with the queries."""

    def __init__(self, core: Infinity, layer: int, state: State) -> None:
        self.attention = cast(LongTermAttention, core.long_term[layer])
        self.coefficients = state["coefficients"][:, layer].detach().clone()
        self.operators: SignalOperators = core.signal.operators(self.coefficients.dtype)
        self.keys = self.attention.keys(self.coefficients)
        self.sticky = sampler_of(state, layer)
        self.asleep = True
        """No row's memory holds anything."""
        self.empty: Tensor | None = None
        """(B, 1) bool, True where a row's memory holds nothing; None if all hold something."""

    def __call__(self, query: Tensor, attended: Tensor) -> Tensor:
        """attended (B, D), the attention's output, and what the scaled queries (H, B, D / H) find here."""
        if self.asleep:
            return attended
        density = self.attention.densities(query.transpose(0, 1)[:, :, None], self.keys, self.coefficients.dtype)
        if self.sticky is not None:
            self.sticky.observe(*density)
        found: Tensor = self.attention.output(self.attention.read(density, self.keys, self.operators.basis)[:, 0])
        if self.empty is not None:
            found = found.masked_fill(self.empty, 0.0)
        return attended.add_(found)

    def refit(self, block: Tensor, continued: Tensor, uniforms: Tensor) -> None:
        """Let block (B, g, D) enter the signal, as `LongTermRecall` does."""
        points = None if self.sticky is None else self.sticky.draw(uniforms)
        self.coefficients = self.operators.refit(self.coefficients, block, continued, points)
        self.keys = self.attention.keys(self.coefficients)


def generator_of(state: State) -> tuple[Tensor, Tensor]:
    """The key and the counter, each (B,), of the generators of sticky memories; zeros where memories are not sticky."""
    if "generator" in state:
        key, refits = state["generator"].unbind(dim=1)
        return key, refits
    return torch.zeros_like(state["age"]), torch.zeros_like(state["age"])


def sampler_of(state: State, layer: int) -> StickySampler | None:
    """The sampler of one layer, None where memories are not sticky."""
    if "histogram" not in state:
        return None
    return StickySampler(state["histogram"][:, layer].detach().clone())
