"""The Compressive Transformer (Rae et al., 1911.05507): a Transformer-XL that compresses what leaves its memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast, get_args

import torch
from torch import Tensor, nn

from memory_cores.attention_use import AttentionUse
from memory_cores.compression import LEARNED, Compression, Compressor
from memory_cores.compression_loss import CompressionLoss, attention_reconstruction, auto_encoding
from memory_cores.compressive_stream import CompressiveStream
from memory_cores.core import CoreOutput, State
from memory_cores.initialisation import fan_in_normal_
from memory_cores.memory_schedule import Evicted, MemorySchedule, clear_unused
from memory_cores.memory_transformer import MemoryTransformer, Positions, transformer_problems
from memory_cores.transformer_block import Norm, TransformerBlock
from memory_cores.validation import at_least, check_call, one_of, raise_problems


class Compressive(MemoryTransformer):
    """Compressive Transformer: Transformer-XL whose oldest memories are compressed, not forgotten; gated by default.

    What leaves the memory of `memory_length` steps, `granularity` steps at a time, becomes one compressed slot for
    every `compression_rate` steps; the newest `compressed_length` slots are attended to beside the memory. The
    granularity is the paper's segment length, a multiple of the rate (the rate itself if None). An episode that
    begins within a slot's steps keeps a slot of its own steps alone.

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

    Metrics: the shares of compressed slots, memory and the present turn of the schedule in the attention of the
    call's last step; while training with rotary positions there are none, since fused kernels keep no weights.
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
        outputs: list[Tensor] = []
        for piece in self.pieces(state, x.shape[1]):
            y, state, losses, metrics = self.run(x[:, piece], state, None if reset is None else reset[:, piece])
            outputs.append(y)
        y = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)
        return CoreOutput(y, {name: tensor.detach() for name, tensor in state.items()}, losses, metrics)

    def pieces(self, state: State, steps: int) -> Iterator[slice]:
        """The parts of a call that can be run at once: which steps are most used shows only when they leave."""
        start = 0
        while self.compression == "most_used" and start < steps:
            schedule = self.schedule
            turn = (schedule.memory_length - schedule.shared_phase(state["phase"]) - start) % schedule.granularity
            stop = min(steps, start + (turn or schedule.granularity))
            yield slice(start, stop)
            start = stop
        if not start:
            yield slice(0, steps)

    def run(self, x: Tensor, state: State, reset: Tensor | None) -> CoreOutput:
        """One part of a call; the state that it leaves carries gradients."""
        steps = x.shape[1]
        memory, compressed = state["memory"], state["compressed"]
        window = self.schedule.window(state["age"], state["phase"], reset, steps)
        evicted = self.schedule.evicted(state["age"], window)
        positions = self.positions(window, like=memory)
        use = AttentionUse(self.schedule, window)
        observed = self.relative or not self.training or self.compression == "most_used"

        memories, slots, usages, losses = [], [], [], []
        for layer, block in enumerate(self.blocks):
            context = torch.cat([memory[:, layer], x], dim=1)  # (B, C + T, D)
            known = compressed[:, layer]
            if self.compression == "most_used":
                usages.append(torch.cat([state["usage"][:, layer], x.new_zeros(x.shape[:2])], dim=1))
                use.received = usages[-1]
            else:
                new, loss = self.compress(layer, context, evicted)
                known = torch.cat([known, new], dim=1)
                losses.append(loss)
            readable = torch.cat([known[:, : window.num_slots], memory[:, layer]], dim=1)
            x = block(x, readable, window.blocks, positions, use if observed else None)
            if usages:
                new = self.compressors[layer](evicted.of(context), evicted.kept, evicted.of(usages[-1]))
                known = torch.cat([known, new.flatten(1, 2)], dim=1)
            memories.append(context[:, steps:])
            slots.append(known[:, -self.schedule.compressed_length :])

        in_use = self.schedule.slots_in_use(window.age, window.first_phase + steps)
        after = {
            "memory": clear_unused(torch.stack(memories, dim=1), window.age),
            "compressed": clear_unused(torch.stack(slots, dim=1), in_use),
            "age": window.age,
            "phase": window.phase,
        }
        if usages:
            newest = torch.stack(usages, dim=1)[:, :, steps:, None]
            after["usage"] = clear_unused(newest, window.age).squeeze(-1)
        named_losses: dict[str, Tensor] = {}
        if self.compression_loss in ("auto_encoding", "attention_reconstruction"):
            named_losses[self.compression_loss] = torch.stack(losses).sum()
        return CoreOutput(x, after, named_losses, use.metrics() if observed else {})

    def compress(self, layer: int, context: Tensor, evicted: Evicted) -> tuple[Tensor, Tensor]:
        """The slots (B, N * g / c, D) of what leaves context (B, C + T, D) of one layer, and their loss.

        Where the loss trains the compression, the slots carry no gradient.
        """
        compressor = cast(Compressor, self.compressors[layer])
        if self.compression_loss in (None, "bptt"):
            slots = compressor(evicted.of(context), evicted.kept)
            return slots.flatten(1, 2).to(context.dtype), context.new_zeros(())
        context = context.detach()
        old, kept = evicted.of(context), evicted.kept
        slots = compressor(old, kept).to(context.dtype)
        if self.compression_loss == "auto_encoding":
            expected, counts = compressor.arrange(old), compressor.arrange(kept[..., None]).squeeze(-1)
            loss = auto_encoding(self.decoders[layer](slots).view_as(expected), expected, counts)
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
        if not problems and granularity % compression_rate:
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
