"""The Compressive Transformer (Rae et al., 1911.05507): a Transformer-XL that compresses what leaves its memory."""

from __future__ import annotations

import itertools
from typing import cast, get_args

import torch
from torch import Tensor, nn

from memory_cores.attention.attention import MemoryAttention
from memory_cores.attention.base import MemoryTransformer, Positions, transformer_problems
from memory_cores.attention.block import Norm, TransformerBlock
from memory_cores.attention.kv_cache import Seen, StepCache, slot_cache
from memory_cores.attention.schedule import Evicted, MemorySchedule, clear_unused
from memory_cores.attention.stream import TransformerXLStream
from memory_cores.attention.watch import AttentionUse
from memory_cores.compressive.compression import LEARNED, Compression, Compressor, slots_kept
from memory_cores.compressive.loss import CompressionLoss, attention_reconstruction, auto_encoding
from memory_cores.core import CoreOutput, State
from memory_cores.layers.initialisation import fan_in_normal_
from memory_cores.validation import at_least, check_call, one_of, raise_problems


class Compressive(MemoryTransformer):
    """Compressive Transformer: Transformer-XL whose oldest memories are compressed, not forgotten; gated by default.

    What leaves the memory of `memory_length` steps, `granularity` steps at a time, becomes one compressed slot for
    every `compression_rate` steps; the newest `compressed_length` slots are attended to beside the memory. The
    granularity is the paper's segment length, a multiple of the rate (the rate itself if None). A slot lies at the
    distance of the last step that it stands for. An episode that begins within a slot's steps keeps a slot of its own
    steps alone.

    `compression_loss` says what trains the compression, which the task's loss never does but under "bptt":
    "attention_reconstruction" (algorithm 2; the default of conv and dilated_conv), "auto_encoding", or "bptt", the
    task's loss through the slots made and read within one call, which must therefore be longer than a period. The
    others have no weights and take no loss. Losses are means over steps and sums over layers, 0 where a call
    compresses nothing, so calls of any length weigh alike. No gradient of these losses reaches the Transformer.

    State: memory (B, L, C, D), the last C = memory_length + granularity - 1 inputs of each layer, newest last, zeros
    where unused; compressed (B, L, compressed_length, D), likewise; age (B,) int64, steps of the episode up to
    C + compression_rate * compressed_length; phase (B,) int64, steps seen modulo granularity; for most_used also
    usage (B, L, C), the attention that each remembered step received from later turns of the schedule.
    Parameters depend on neither length nor on granularity, so these may differ between training and evaluation.

    Metrics: the compression loss of each layer; the shares of compressed slots, memory and the present turn of the
    schedule in the attention of the call's last step, but while training with rotary positions, since fused kernels
    keep no weights.
    """

    def __init__(
        self,
        *,
        d_model: int,
        num_layers: int = 2,
        num_heads: int = 4,
        d_ff: int | None = None,
        memory_length: int = 64,
        compressed_length: int = 64,
        compression_rate: int = 4,
        compression: Compression = "conv",
        compression_loss: CompressionLoss | None = None,
        granularity: int | None = None,
        norm: Norm = "gru",
        positions: Positions = "relative",
        dropout: float = 0.0,
    ) -> None:
        problems = transformer_problems(
            d_model=d_model,
            num_layers=num_layers,
            num_heads=num_heads,
            d_ff=d_ff,
            memory_length=memory_length,
            norm=norm,
            positions=positions,
            dropout=dropout,
        )
        problems += compression_problems(
            memory_length, compressed_length, compression_rate, compression, compression_loss, granularity
        )
        raise_problems("compressive", problems)
        granularity = compression_rate if granularity is None else granularity
        super().__init__(
            d_model=d_model,
            num_layers=num_layers,
            num_heads=num_heads,
            d_ff=d_ff,
            norm=norm,
            positions=positions,
            dropout=dropout,
            schedule=MemorySchedule(memory_length, granularity, compression_rate, compressed_length),
        )
        self.compression = compression
        if compression_loss is None and compression in LEARNED:
            compression_loss = "attention_reconstruction"
        self.compression_loss = compression_loss
        self.isolated = compression_loss in ("auto_encoding", "attention_reconstruction")
        self.compressors = nn.ModuleList(Compressor(compression, compression_rate, d_model) for _ in range(num_layers))
        if compression_loss == "auto_encoding":
            decoders = [nn.Linear(d_model, compression_rate * d_model) for _ in range(num_layers)]
            for decoder in decoders:
                fan_in_normal_(decoder)
            self.decoders = nn.ModuleList(decoders)

    def initial_state(self, batch_size: int, device: torch.device | str | None = None) -> State:
        weight = next(self.parameters())
        device = weight.device if device is None else device
        schedule = self.schedule
        shapes: dict[str, tuple[int, ...]] = {
            "memory": (batch_size, self.num_layers, schedule.capacity, self.d_model),
            "compressed": (batch_size, self.num_layers, schedule.compressed_length, self.d_model),
        }
        if self.compression == "most_used":
            shapes["usage"] = (batch_size, self.num_layers, schedule.capacity)
        state = {name: torch.zeros(shape, dtype=weight.dtype, device=device) for name, shape in shapes.items()}
        count = torch.zeros(batch_size, dtype=torch.int64, device=device)
        return {**state, "age": count, "phase": count.clone()}

    def forward(self, x: Tensor, state: State, reset: Tensor | None = None) -> CoreOutput:
        check_call(self, x, state, reset)
        x = x.to(state["memory"].dtype)  # under autocast the input may come in half precision; the stream never is
        state = {name: tensor.detach() for name, tensor in state.items()}
        outputs = []
        for piece in self.pieces(state["phase"], x.shape[1]):
            y, state, losses, metrics = self.run(x[:, piece], state, None if reset is None else reset[:, piece])
            outputs.append(y)
        state = {name: tensor.detach() for name, tensor in state.items()}
        return CoreOutput(torch.cat(outputs, dim=1), state, losses, metrics)

    def pieces(self, phase: Tensor, steps: int) -> list[slice]:
        """The parts of a call from phase (B,) that can be run at once.

        The most used steps are known only when the last of them has left the memory, at the end of a part.
        """
        if self.compression != "most_used":
            return [slice(0, steps)]
        granularity = self.schedule.granularity
        first = (self.schedule.memory_length - self.schedule.shared_phase(phase)) % granularity
        cuts = sorted({0, steps, *range(first, steps, granularity)})
        return [slice(start, stop) for start, stop in itertools.pairwise(cuts)]

    def run(self, x: Tensor, state: State, reset: Tensor | None) -> CoreOutput:
        """One part of a call; the state that it leaves carries gradients."""
        steps = x.shape[1]
        window = self.schedule.window(state["age"], state["phase"], reset, steps)
        evicted = self.schedule.evicted(state["age"], window)
        positions = self.positions(window, like=x)
        use = AttentionUse(self.schedule, window)
        watched = self.relative or not self.training or self.compression == "most_used"
        after: dict[str, list[Tensor]] = {name: [] for name in state if name not in ("age", "phase")}
        losses = []
        for layer, block in enumerate(self.blocks):
            memory, slots = state["memory"][:, layer], state["compressed"][:, layer]
            context = torch.cat([memory, x], dim=1)  # (B, C + T, D)
            if self.compression == "most_used":
                use.received = torch.cat([state["usage"][:, layer], x.new_zeros(x.shape[:2])], dim=1)
            else:
                new, loss = self.compress(layer, context, evicted)
                slots = torch.cat([slots, new], dim=1)
                losses.append(loss)
            remembered = torch.cat([slots[:, : window.num_slots], memory], dim=1)
            x = block(x, remembered, window.blocks, positions, use if watched else None)
            if use.received is not None:
                new = self.compressors[layer](evicted.of(context), evicted.kept, evicted.of(use.received))
                slots = torch.cat([slots, new.flatten(1, 2)], dim=1)
                after["usage"].append(use.received[:, steps:, None])
            after["memory"].append(context[:, steps:])
            after["compressed"].append(slots[:, -self.schedule.compressed_length :])

        in_use = self.schedule.slots_in_use(window.age, window.first_phase + steps)
        tensors = {
            name: clear_unused(torch.stack(layers, dim=1), in_use if name == "compressed" else window.age)
            for name, layers in after.items()
        }
        if "usage" in tensors:
            tensors["usage"] = tensors["usage"].squeeze(-1)
        metrics = use.metrics() if watched else {}
        named_losses = {}
        if self.isolated:
            named_losses[str(self.compression_loss)] = torch.stack(losses).sum()
            metrics |= {f"compression_loss_layer_{layer}": loss.detach() for layer, loss in enumerate(losses, start=1)}
        return CoreOutput(x, {**tensors, "age": window.age, "phase": window.phase}, named_losses, metrics)

    def compress(self, layer: int, context: Tensor, evicted: Evicted) -> tuple[Tensor, Tensor]:
        """The slots (B, N * g / c, D) of what leaves context (B, C + T, D) of one layer, and their loss.

        Where a loss of its own trains the compression, the slots carry no gradient.
        """
        compressor = cast(Compressor, self.compressors[layer])
        if self.isolated:
            context = context.detach()
        old, kept = evicted.of(context), evicted.kept
        slots = compressor(old, kept).to(context.dtype)
        if not self.isolated:
            return slots.flatten(1, 2), context.new_zeros(())
        if self.compression_loss == "auto_encoding":
            decoded, expected = self.decoders[layer](slots), compressor.arrange(old)
            counts = compressor.arrange(kept[..., None]) & slots_kept(kept, compressor.rate)[..., None, None]
            loss = auto_encoding(decoded.view_as(expected), expected, counts.squeeze(-1))
        else:
            queries, block = evicted.queries_of(context), cast(TransformerBlock, self.blocks[layer])
            loss = attention_reconstruction(block, queries, evicted.queries_kept, old, kept, slots)
        return slots.flatten(1, 2).detach(), loss

    def stream(self, batch_size: int) -> CompressiveStream:
        return CompressiveStream(self, batch_size)


def compression_problems(
    memory_length: int,
    compressed_length: int,
    compression_rate: int,
    compression: str,
    compression_loss: str | None,
    granularity: int | None,
) -> list[str]:
    """The problems of the options that say what is compressed and how."""
    problems = at_least(1, compressed_length=compressed_length, compression_rate=compression_rate)
    problems += one_of(get_args(Compression), compression=compression)
    if granularity is not None:
        problems += at_least(1, granularity=granularity)
        if not at_least(1, rate=compression_rate, granularity=granularity) and granularity % compression_rate:
            problems.append(
                f"granularity is {granularity}, expected a multiple of compression_rate, {compression_rate}"
            )
    if compression_loss is not None:
        problems += one_of(get_args(CompressionLoss), compression_loss=compression_loss)
        if compression in get_args(Compression) and compression not in LEARNED:
            problems.append(f"compression_loss is {compression_loss!r}, expected None: {compression} has no weights")
    if compression == "most_used" and memory_length == 0:
        problems.append("memory_length is 0, expected 1 or more: most_used ranks steps by the use made of them there")
    return problems


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
