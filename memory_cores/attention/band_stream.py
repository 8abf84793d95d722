"""Single steps of cores that attend to bands of a memory of steps."""

from __future__ import annotations

from abc import abstractmethod
from typing import cast

from torch import Tensor

from memory_cores.attention.block import TransformerBlock
from memory_cores.attention.cached_block import CachedBlock
from memory_cores.attention.kv_cache import StepView
from memory_cores.attention.selected_attention import ChoosingAttention
from memory_cores.attention.stream import TransformerXLStream
from memory_cores.core import State


class BandStream(TransformerXLStream):
    """Steps a `BandTransformer`; a step is given the penalties of all places."""

    def step_view(self) -> StepView:
        is_seen = self.place - self.capacity >= self.all_seen_from
        return StepView(self.place, (), penalty=None if is_seen else self.penalty, turn=self.place - self.phase)

    def cached_blocks(self, state: State) -> list[CachedBlock[ChoosingAttention]]:
        blocks = []
        for layer, module in enumerate(self.core.blocks):
            block = cast(TransformerBlock, module)
            memory = block.normalise_memory(state["memory"][:, layer].detach())
            blocks.append(CachedBlock(block, self.step_attention(block, memory, state), self.batch_size))
        return blocks

    @abstractmethod
    def step_attention(self, block: TransformerBlock, memory: Tensor, state: State) -> ChoosingAttention:
        """The attention of a block, with caches filled from its memory (B, C, D) as attention reads it."""
