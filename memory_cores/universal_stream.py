"""Single steps of a Universal Transformer, each depth step over cached keys and values of its own."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from memory_cores.adaptive_computation import Pondering, accumulate
from memory_cores.attention_cache import RelativeStepCache, Seen, StepCache
from memory_cores.cached_block import CachedBlock
from memory_cores.core import State
from memory_cores.transformer_xl_stream import TransformerXLStream

if TYPE_CHECKING:
    from memory_cores.universal import Universal


class UniversalStream(TransformerXLStream):
    """Steps a `Universal` core; once every row has halted, the later depth steps remember its state and no more."""

    core: Universal

    def forget(self, reset: Tensor) -> None:
        super().forget(reset)
        if self.core.convolution is not None:
            self.transitions.masked_fill_(reset[:, None], 0.0)

    def transform(self, x: Tensor, seen: Seen) -> Tensor:
        core = self.core
        pondering = Pondering(x.shape[:1], self.inputs, max_steps=core.max_ponder_steps, epsilon=core.halting_epsilon)
        x = x.to(self.inputs.dtype)
        result, entering = torch.zeros_like(x), torch.zeros_like(x)
        for depth, block in enumerate(self.blocks):
            running = pondering.running[:, None]
            if not running.any():
                self.copy(depth, x, entering)
                break
            self.inputs[depth, :, self.place] = x
            h = block.attend(x + self.signals[depth], seen)
            inner = block.mlp_input(h)
            if core.convolution is not None:
                entering = torch.where(running, inner, entering)
                inner = core.convolution.step(entering, self.transitions[depth])
                self.remember_transition(depth, entering)
            y = block.after_mlp(h, block.mlp(inner))
            x = torch.where(running, y, x)
            if core.adaptive:
                weight = pondering.weigh(core.halting_unit(y))
                result = accumulate(core.halting, result, y, weight)
        return result if core.adaptive else x

    def copy(self, depth: int, x: Tensor, entering: Tensor) -> None:
        """Remember the state x (B, D) in the depth steps from `depth` on, which no row runs."""
        self.inputs[depth:, :, self.place] = x
        entries = self.core.block.normalise_memory(x + self.signals[depth:, None])
        for block, entry in zip(self.blocks[depth:], entries, strict=True):
            block.cache.remember(entry, self.place)
        if self.core.convolution is not None:
            for later in range(depth, len(self.blocks)):
                self.remember_transition(later, entering)

    def remember_transition(self, depth: int, entering: Tensor) -> None:
        """Take entering (B, D) in as the newest input of one depth step's convolution."""
        past = self.transitions[depth]
        self.transitions[depth] = torch.cat([past[1:], entering[None]])[: len(past)]

    def cached_blocks(self, state: State) -> list[CachedBlock]:
        core, block = self.core, self.core.block
        self.signals = core.depth_signals(like=state["memory"]).detach()
        memory = state["memory"].detach() + self.signals[:, None]
        cached = [CachedBlock(block, self.cache(block, 0, {"memory": memory}), self.batch_size)]
        for depth in range(1, core.max_ponder_steps):
            cached.append(copy.copy(cached[0]))
            cached[depth].cache = self.cache(block, depth, {"memory": memory})
            share(cached[0].cache, cached[depth].cache)
        return cached

    @torch.inference_mode(False)
    @torch.no_grad()
    def state(self) -> State:
        state = super().state()
        if self.core.convolution is not None:
            state["transition"] = self.transitions.permute(2, 0, 1, 3).clone(memory_format=torch.contiguous_format)
        return state

    @torch.inference_mode(False)
    @torch.no_grad()
    def load(self, state: State) -> None:
        super().load(state)
        if self.core.convolution is not None:
            self.transitions = (
                state["transition"].detach().permute(1, 2, 0, 3).clone(memory_format=torch.contiguous_format)
            )
            """(N, width - 1, B, D), for each depth step the last inputs of the convolution, newest last."""


def share(first: StepCache, other: StepCache) -> None:
    """Let a cache use what the weights gave to the first, so that a step reads one copy of it."""
    other.qkv = first.qkv
    if isinstance(first, RelativeStepCache) and isinstance(other, RelativeStepCache):
        other.distances = first.distances
