"""Single steps of a Compressive Transformer over cached keys and values of steps and of compressed slots."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from memory_cores.attention import MemoryAttention
from memory_cores.attention_cache import Seen, StepCache, slot_cache
from memory_cores.compression import Compressor, slots_kept
from memory_cores.core import State
from memory_cores.memory_schedule import clear_unused
from memory_cores.transformer_block import TransformerBlock
from memory_cores.transformer_xl_stream import TransformerXLStream

if TYPE_CHECKING:
    from memory_cores.compressive import Compressive


class CompressiveStream(TransformerXLStream):
    """Steps a `Compressive` core; what leaves its memory is compressed once in `granularity` steps.

    The slots have buffers of their own, which slide as those of the steps do.
    """

    core: Compressive

    def __init__(self, core: Compressive, batch_size: int) -> None:
        schedule = core.schedule
        self.new_slots = schedule.granularity // schedule.compression_rate
        self.slot_length = 2 * schedule.compressed_length + self.new_slots
        self.slot_place = 0
        self.all_slots_seen_from = 0
        """No row has a forbidden slot from here on."""
        super().__init__(core, batch_size)

    def forget(self, reset: Tensor) -> None:
        super().forget(reset)
        self.slot_penalty[reset, : self.slot_place] = -torch.inf
        self.all_slots_seen_from = self.slot_place

    def seen(self) -> Seen:
        schedule = self.core.schedule
        first_slot = self.slot_place - schedule.compressed_length
        seen = super().seen()
        penalty = seen.penalty
        if penalty is not None or first_slot < self.all_slots_seen_from:
            penalty = torch.cat(
                [self.slot_penalty[:, first_slot : self.slot_place], self.penalty[:, seen.start : self.place + 1]],
                dim=1,
            )
        return Seen(
            seen.start,
            self.place,
            penalty,
            first_slot,
            self.slot_place,
            slot_distance=schedule.context(self.phase) + 1,
            turn=self.place - self.phase,
        )

    def advance(self) -> None:
        super().advance()
        schedule = self.core.schedule
        if self.phase == schedule.memory_length % schedule.granularity:
            self.compress()

    def compress(self) -> None:
        """Make slots of the block that has just left the memory."""
        schedule = self.core.schedule
        if self.slot_place + self.new_slots > self.slot_length:
            self.slide_slots()
        end = self.place - schedule.memory_length
        block = slice(end - schedule.granularity, end)
        kept = self.penalty[:, block] == 0  # (B, g)
        new = slice(self.slot_place, self.slot_place + self.new_slots)
        new_kept = slots_kept(kept[:, None], schedule.compression_rate)[:, 0]
        self.slot_penalty[:, new] = torch.zeros_like(self.slot_penalty[:, new]).masked_fill_(~new_kept, -torch.inf)
        if not new_kept.all():
            self.all_slots_seen_from = new.stop
        if new_kept.any():
            for layer, block_cache in enumerate(self.blocks):
                cache = block_cache.cache
                usage = None if cache.usage is None else cache.usage[:, None, block]
                compressor = cast(Compressor, self.core.compressors[layer])
                slots = compressor(self.inputs[layer, :, None, block], kept[:, None], usage)[:, 0]  # (B, g / c, D)
                self.slots[layer, :, new] = slots
                assert cache.slots is not None
                cache.slots.write(block_cache.block.normalise_memory(slots), new.start)
        self.slot_place = new.stop

    def slide_slots(self) -> None:
        """Move the newest slots to the front of their buffers."""
        count = self.core.schedule.compressed_length
        newest = slice(self.slot_place - count, self.slot_place)
        self.slots[:, :, :count] = self.slots[:, :, newest]
        self.slot_penalty[:, :count] = self.slot_penalty[:, newest]
        for block in self.blocks:
            assert block.cache.slots is not None
            block.cache.slots.slide(count, self.slot_place)
        self.all_slots_seen_from -= self.slot_place - count
        self.slot_place = count

    @torch.inference_mode(False)
    @torch.no_grad()
    def state(self) -> State:
        state = super().state()
        schedule = self.core.schedule
        newest = self.slots[:, :, self.slot_place - schedule.compressed_length : self.slot_place].transpose(0, 1)
        in_use = schedule.slots_in_use(state["age"], self.phase)
        state["compressed"] = clear_unused(newest, in_use)
        if self.core.compression == "most_used":
            usages = torch.stack([cast(Tensor, block.cache.usage) for block in self.blocks], dim=1)
            usages = usages[:, :, self.place - self.capacity : self.place, None]
            state["usage"] = clear_unused(usages, state["age"]).squeeze(-1)
        return state

    @torch.inference_mode(False)
    @torch.no_grad()
    def load(self, state: State) -> None:
        super().load(state)
        schedule = self.core.schedule
        compressed = state["compressed"].detach().transpose(0, 1)  # (L, B, n_cm, D)
        num_layers, batch_size, count, d_model = compressed.shape
        self.slots = compressed.new_zeros(num_layers, batch_size, self.slot_length, d_model)
        self.slots[:, :, :count] = compressed
        self.slot_place = self.all_slots_seen_from = count
        in_use = schedule.slots_in_use(state["age"], self.phase)
        order = torch.arange(self.slot_length, device=compressed.device)
        unused = order < (count - in_use)[:, None]
        self.slot_penalty = compressed.new_zeros(unused.shape).masked_fill_(unused, -torch.inf)

    def cache(self, block: TransformerBlock, layer: int, state: State) -> StepCache:
        cache = super().cache(block, layer, state)
        slots = block.normalise_memory(state["compressed"][:, layer].detach())
        attention = cast(MemoryAttention, block.attention)
        cache.slots = slot_cache(attention, slots, self.slot_length, self.core.schedule)
        if self.core.compression == "most_used":
            cache.usage = slots.new_zeros(slots.shape[0], self.length)
            cache.usage[:, : self.capacity] = state["usage"][:, layer]
        return cache
