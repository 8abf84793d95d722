"""Single steps of a Transformer-XL whose keys and values of remembered steps are cached, not recomputed."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor
from torch.nn import functional

from memory_cores.attention import MemoryAttention, RelativeAttention
from memory_cores.core import State, Stream
from memory_cores.memory_schedule import clear_unused
from memory_cores.positions import rotary_table, rotate, sinusoids
from memory_cores.validation import check_state, check_step

if TYPE_CHECKING:
    from memory_cores.gating import GRUGate
    from memory_cores.transformer_block import TransformerBlock
    from memory_cores.transformer_xl import TransformerXL


class TransformerXLStream(Stream):
    """Steps a `TransformerXL` core in O(D^2 + context * D) a layer, whatever the stream's age.

    Every buffer holds more than twice the memory's capacity in time order and is written at one advancing
    place; at the end the newest entries slide to the front, so that the context is always one contiguous
    slice and a step copies an amortised constant. Steps run in the parameters' dtype, also under autocast.
    """

    def __init__(self, core: TransformerXL, batch_size: int) -> None:
        self.core = core
        self.batch_size = batch_size
        self.capacity = core.schedule.capacity
        self.length = 2 * self.capacity + 1
        self.place = 0
        self.phase = 0
        self.all_seen_from = 0
        """No row has a forbidden slot from here on, so later contexts need no penalty."""
        self.load(core.initial_state(batch_size))

    @torch.no_grad()
    def step(self, x: Tensor, reset: Tensor | None = None) -> Tensor:
        check_step(self.core, self.batch_size, x, reset)
        if torch.is_autocast_enabled(x.device.type):
            with torch.autocast(x.device.type, enabled=False):
                return self.step(x.to(self.inputs.dtype), reset)
        if self.place == self.length:
            self.slide()
        if reset is not None and reset.any():
            self.penalty[reset, : self.place] = -torch.inf
            self.all_seen_from = self.place
        start = self.place - self.core.schedule.context(self.phase)
        penalty = self.penalty[:, start : self.place + 1] if start < self.all_seen_from else None
        for layer, block in enumerate(self.blocks):
            self.inputs[layer, :, self.place] = x
            x = block.step(x, start, self.place, penalty)
        self.place += 1
        self.phase = (self.phase + 1) % self.core.period
        return x

    def slide(self) -> None:
        """Move the newest entries of every buffer to its front."""
        distance = self.length - self.capacity
        self.inputs[:, :, : self.capacity] = self.inputs[:, :, distance:]
        self.penalty[:, : self.capacity] = self.penalty[:, distance:]
        self.penalty[:, self.capacity :] = 0.0
        for block in self.blocks:
            block.cache.slide(self.capacity)
        self.place -= distance
        self.all_seen_from -= distance

    @torch.inference_mode(False)
    @torch.no_grad()
    def state(self) -> State:
        newest = slice(self.place - self.capacity, self.place)
        age = (self.penalty[:, newest] == 0).sum(dim=1)
        memory = clear_unused(self.inputs[:, :, newest].transpose(0, 1), age)
        return {"memory": memory, "age": age, "phase": torch.full_like(age, self.phase)}

    @torch.inference_mode(False)
    @torch.no_grad()
    def load(self, state: State) -> None:
        check_state(self.core, state, self.batch_size)
        self.phase = self.core.schedule.shared_phase(state["phase"])
        memory = state["memory"].detach().transpose(0, 1)  # (L, B, C, D)
        num_layers, batch_size, capacity, d_model = memory.shape
        self.inputs = memory.new_zeros(num_layers, batch_size, self.length, d_model)
        self.inputs[:, :, :capacity] = memory
        self.penalty = memory.new_zeros(batch_size, self.length)  # -inf at the slots that a row must not see
        slots = torch.arange(capacity, 0, -1, device=memory.device)
        self.penalty[:, :capacity].masked_fill_(slots > state["age"][:, None], -torch.inf)
        with torch.autocast(memory.device.type, enabled=False):
            self.blocks = [
                CachedBlock(cast("TransformerBlock", block), self.core, layer_memory, self.length)
                for block, layer_memory in zip(self.core.blocks, memory, strict=True)
            ]
        self.place = capacity
        self.all_seen_from = capacity


class CachedBlock:
    """A Transformer block that takes one step, with a cache for its attention."""

    def __init__(self, block: TransformerBlock, core: TransformerXL, memory: Tensor, length: int) -> None:
        """memory (B, C, D): the layer's remembered inputs. length: slots of the cache."""
        self.block = block
        self.norm = block.norm
        if self.norm != "post":
            memory = block.attention_norm(memory)
        attention = cast(MemoryAttention, block.attention)
        self.cache: AttentionCache
        if isinstance(attention, RelativeAttention):
            self.cache = RelativeCache(attention, memory, length, core)
        else:
            self.cache = RotaryCache(attention, memory, length)
        self.attention_output = packed(attention.output.weight)
        self.hidden = packed(block.mlp.hidden.weight)
        self.output = packed(block.mlp.output.weight)
        if self.norm == "gru":
            self.attention_gate = CachedGate(block.attention_gate, memory.shape[0])
            self.mlp_gate = CachedGate(block.mlp_gate, memory.shape[0])

    def step(self, x: Tensor, start: int, place: int, penalty: Tensor | None) -> Tensor:
        """x (B, D) attends to the cached steps [start, place) and itself -> (B, D)."""
        block = self.block
        if self.norm == "post":
            attended = torch.mm(self.cache.attend(x, start, place, penalty), self.attention_output)
            h = normalise(attended.add_(x), block.attention_norm)
            return normalise(self.mlp(h).add_(h), block.mlp_norm)
        context = self.cache.attend(normalise(x, block.attention_norm), start, place, penalty)
        attended = torch.mm(context, self.attention_output).relu_()
        h = self.attention_gate.combine(x, attended) if self.norm == "gru" else attended.add_(x)
        transformed = self.mlp(normalise(h, block.mlp_norm)).relu_()
        return self.mlp_gate.combine(h, transformed) if self.norm == "gru" else transformed.add_(h)

    def mlp(self, x: Tensor) -> Tensor:
        """(B, D) -> (B, D)."""
        hidden = torch.addmm(self.block.mlp.hidden.bias, x, self.hidden).relu_()
        return torch.addmm(self.block.mlp.output.bias, hidden, self.output)


class AttentionCache:
    """The keys and values (2, H, B, N, D / H) of one layer, N slots in time order."""

    def __init__(self, attention: MemoryAttention, memory: Tensor, length: int) -> None:
        """memory (B, C, D), normalised if the block does so, fills the first C of `length` slots."""
        batch_size, capacity, d_model = memory.shape
        self.heads = attention.num_heads
        self.width = attention.head_width
        weight = attention.qkv.weight.detach().clone()
        weight[:d_model] *= attention.scale
        self.qkv = packed(weight)
        self.buffer = memory.new_zeros(2, self.heads, batch_size, length, self.width)
        for cached, projected in zip(self.buffer, attention.project_memory(memory), strict=True):
            cached[:, :, :capacity] = projected.view(batch_size, capacity, self.heads, self.width).permute(2, 0, 1, 3)
        self.keys, self.values = self.buffer.flatten(1, 2)  # (H B, N, D / H), views

    def project(self, x: Tensor) -> Tensor:
        """The scaled queries, the keys and the values (3, H, B, D / H) of x (B, D), as a view."""
        return torch.mm(x, self.qkv).view(-1, 3, self.heads, self.width).permute(1, 2, 0, 3)

    def attend(self, x: Tensor, start: int, place: int, penalty: Tensor | None) -> Tensor:
        """Write the keys and values of x (B, D) at `place`; return the attended values (B, D).

        The slots [start, place] are seen; penalty (B, place + 1 - start) is added to each row's scores.
        """
        raise NotImplementedError

    def mix(self, scores: Tensor, start: int, place: int, penalty: Tensor | None) -> Tensor:
        """The values (B, D) at [start, place] weighted by the softmax of scores (H B, 1, seen)."""
        if penalty is not None:
            scores = scores.view(self.heads, -1, penalty.shape[1]).add_(penalty).view(scores.shape)
        context = torch.bmm(scores.softmax(dim=-1), self.values[:, start : place + 1])
        return context.view(self.heads, -1, self.width).transpose(0, 1).reshape(-1, self.heads * self.width)

    def slide(self, capacity: int) -> None:
        """Move the newest `capacity` entries to the front."""
        self.buffer[:, :, :, :capacity] = self.buffer[:, :, :, self.buffer.shape[3] - capacity :]


class RelativeCache(AttentionCache):
    """Adds the tabulated terms of the relative positions."""

    def __init__(self, attention: RelativeAttention, memory: Tensor, length: int, core: TransformerXL) -> None:
        super().__init__(attention, memory, length)
        distances = torch.arange(memory.shape[1], -1, -1, device=memory.device)
        table = attention.position(sinusoids(distances, core.d_model, memory.dtype))
        self.distances = attention.heads(table).transpose(1, 2).contiguous()  # (H, D / H, C + 1)
        self.content_bias = core.content_bias.detach() * attention.scale
        self.position_bias = core.position_bias.detach() * attention.scale
        self.content_query = memory.new_empty(self.heads, memory.shape[0], self.width)
        self.position_query = torch.empty_like(self.content_query)

    def attend(self, x: Tensor, start: int, place: int, penalty: Tensor | None) -> Tensor:
        projected = self.project(x)
        query = projected[0]
        self.buffer[:, :, :, place] = projected[1:]
        torch.add(query, self.content_bias, out=self.content_query)
        torch.add(query, self.position_bias, out=self.position_query)
        seen = place + 1 - start
        scores = torch.bmm(self.position_query, self.distances[:, :, self.distances.shape[2] - seen :])
        keys = self.keys[:, start : place + 1].transpose(1, 2)
        scores = scores.view(-1, 1, seen).baddbmm_(self.content_query.view(-1, 1, self.width), keys)
        return self.mix(scores, start, place, penalty)


class RotaryCache(AttentionCache):
    """Keys are kept rotated by their slot; a slide turns them back by its distance.

    No entry slides twice, since a slide moves fewer entries than were written since the last: rounding never
    adds up.
    """

    def __init__(self, attention: MemoryAttention, memory: Tensor, length: int) -> None:
        super().__init__(attention, memory, length)
        slots = torch.arange(length, device=memory.device)
        self.cosine, self.sine = rotary_table(slots, self.width, memory.dtype)
        self.keys.copy_(rotate(self.keys, self.cosine, self.sine))

    def attend(self, x: Tensor, start: int, place: int, penalty: Tensor | None) -> Tensor:
        projected = self.project(x)
        query, key = rotate(projected[:2], self.cosine[place], self.sine[place])
        self.buffer[0, :, :, place] = key
        self.buffer[1, :, :, place] = projected[2]
        keys = self.keys[:, start : place + 1].transpose(1, 2)
        scores = torch.bmm(query.reshape(-1, 1, self.width), keys)
        return self.mix(scores, start, place, penalty)

    def slide(self, capacity: int) -> None:
        super().slide(capacity)
        distance = torch.tensor([capacity - self.keys.shape[1]], device=self.keys.device)
        turn = rotary_table(distance, self.width, self.keys.dtype)
        self.keys[:, :capacity] = rotate(self.keys[:, :capacity], *turn)


class CachedGate:
    """A GRU gate over preallocated rows [y, x] and [y, r x]."""

    def __init__(self, gate: GRUGate, batch_size: int) -> None:
        self.reset_update = packed(gate.reset_update.weight)
        self.candidate = packed(gate.candidate.weight)
        width = gate.bias.shape[0]
        self.bias = torch.cat([torch.zeros_like(gate.bias), -gate.bias])
        self.rows = gate.bias.new_empty(batch_size, 2 * width)
        self.y, self.x = self.rows.chunk(2, dim=1)

    def combine(self, x: Tensor, y: Tensor) -> Tensor:
        """g(x, y) of x, y (B, D) -> (B, D)."""
        self.y.copy_(y)
        self.x.copy_(x)
        reset, update = torch.addmm(self.bias, self.rows, self.reset_update).sigmoid_().chunk(2, dim=1)
        torch.mul(reset, x, out=self.x)
        return torch.lerp(x, torch.mm(self.rows, self.candidate).tanh_(), update)


def packed(weight: Tensor) -> Tensor:
    """A linear layer's weight (outputs, inputs) as the contiguous right factor (inputs, outputs)."""
    return weight.detach().t().contiguous()


def normalise(x: Tensor, norm: torch.nn.LayerNorm) -> Tensor:
    """The layer norm of x (B, D), without the cost of a module call."""
    return functional.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
