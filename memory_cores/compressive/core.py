"""The Compressive Transformer (Rae et al., 1911.05507): a Transformer-XL that compresses what leaves its memory."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import cast, get_args

import torch
from torch import Tensor, nn

from memory_cores.attention.attention import Attention
from memory_cores.attention.base import AttentionOptions, MemoryTransformer
from memory_cores.attention.block import TransformerBlock
from memory_cores.attention.cached_block import CachedBlock
from memory_cores.attention.kv_cache import CachedAttention, StepView
from memory_cores.attention.patterns import Run
from memory_cores.attention.schedule import Eviction, MemorySchedule, clear_unused
from memory_cores.attention.stream import TransformerXLStream
from memory_cores.attention.watch import AttentionUse
from memory_cores.compressive.compression import LEARNED, Compression, Compressor, slot_mask
from memory_cores.compressive.loss import CompressionLoss, attention_reconstruction, auto_encoding
from memory_cores.core import CoreOutput, State
from memory_cores.layers.initialisation import fan_in_normal_
from memory_cores.options import at_least, multiple_of, one_of
from memory_cores.validation import check_call


@dataclass(frozen=True, kw_only=True)
class CompressiveOptions(AttentionOptions):
    """The options of `Compressive`."""

    num_layers: int = 2
    """Stacked blocks, each with a memory of its own. With more of them information reaches further back through the
    memories; cost grows in proportion."""
    compressed_length: int = 64
    """Compressed slots n_cm that a step attends to (section 3.1). They reach compression_rate times as far back as
    equally many steps of memory, at the same cost of attention."""
    compression_rate: int = 4
    """Steps c that one slot stands for (section 3.1). The paper's models take 2 to 4; a higher rate reaches further
    back and keeps less detail."""
    compression: Compression = "conv"
    """How c steps become one slot (section 3.2): a convolution (conv), a dilated convolution over the whole block
    (dilated_conv), pooling (mean or max), or selection of the steps with the most attention (most_used). conv is the
    paper's best; pooling and most_used have no weights to train."""
    compression_loss: CompressionLoss | None = None
    """What trains conv and dilated_conv (section 3.2): attention_reconstruction (algorithm 2), which null is for them;
    auto_encoding; or bptt. Only bptt lets the task's loss train the compression, through slots that are made and read
    within one call, which must then be longer than a period. Must be null for the others, which have no weights."""
    granularity: int | None = None
    """Steps by which the memory moves on at a time, a multiple of the rate; null is the rate itself. With the segment
    length it is the paper's schedule. Unroll and segment lengths must be multiples of it."""

    @property
    def turn(self) -> int:
        """The granularity: the option, or the rate where it is null."""
        return self.compression_rate if self.granularity is None else self.granularity

    def problems(self, d_model: int) -> list[str]:
        problems = super().problems(d_model) + at_least(1, num_layers=self.num_layers)
        sizes = at_least(1, compression_rate=self.compression_rate, granularity=self.turn)
        problems += at_least(1, compressed_length=self.compressed_length)
        problems += sizes or multiple_of(self.compression_rate, "compression_rate", granularity=self.turn)
        problems += one_of(Compression, compression=self.compression)
        if self.compression_loss is not None:
            problems += one_of(CompressionLoss, compression_loss=self.compression_loss)
            if self.compression in set(get_args(Compression)) - set(LEARNED):
                problems.append(
                    f"compression_loss is {self.compression_loss!r}, expected None: {self.compression} has no weights"
                )
        if self.compression == "most_used" and self.memory_length == 0:
            problems.append(
                "memory_length is 0, expected 1 or more: most_used ranks steps by the use made of them there"
            )
        return problems


class Compressive(MemoryTransformer):
    """Compressive Transformer: Transformer-XL whose oldest memories are compressed, not forgotten; gated by default.

    Layer n, with its input x^n, its memory x^n_mem and its compressed memory x^n_cm (algorithm 1):

        x^{n+1}_t = block(x^n_t, keys and values of [x^n_cm, x^n_mem, x^n])
        x^n_cm'   = the newest n_cm of [x^n_cm, f_c(the g steps that leave x^n_mem)]

    The memory holds `memory_length` steps and moves on g = `granularity` steps at a time. The steps that leave it
    become one compressed slot for every c = `compression_rate` of them, and the newest n_cm = `compressed_length` slots
    are attended to. A slot lies at the distance of the last step that it stands for. If an episode begins within a
    slot's steps, the slot stands for the new episode's steps alone. An independent plain loop is
    tests/memory_cores/plain_compressive.py.

    Losses of the compression are averaged over steps and summed over layers, and 0 where a call compresses nothing, so
    the length of a call does not change their weight. Their gradient does not reach the Transformer.

    State: memory (B, L, C, D), the last C = memory_length + granularity - 1 inputs of each layer, newest last, zeros
    where unused; compressed (B, L, n_cm, D), likewise; age (B,) int64, steps of the episode, at most C + c * n_cm;
    phase (B,) int64, steps seen modulo granularity; for most_used also usage (B, L, C), the attention that each
    remembered step received from later turns of the schedule. The parameters depend neither on the two lengths nor on
    the granularity, so these may differ between training and evaluation.

    Metrics: the compression loss of each layer, and the shares of compressed slots, memory and the present turn of the
    schedule in the attention of the call's last step. The shares are left out in training with rotary positions, since
    fused kernels do not return weights.

    >>> import memory_cores
    >>> core = memory_cores.build("compressive", d_model=8, memory_length=2, compressed_length=2, compression_rate=2)
    >>> x, stream = torch.randn(2, 9, 8), core.stream(batch_size=2)
    >>> y = core(x, core.initial_state(batch_size=2)).y
    >>> stepped = torch.stack([stream.step(x[:, t]) for t in range(9)], dim=1)
    >>> torch.allclose(y, stepped, atol=1e-5)
    True
    """

    Options = CompressiveOptions

    def __init__(self, d_model: int, options: CompressiveOptions) -> None:
        rate, num_layers = options.compression_rate, options.num_layers
        schedule = MemorySchedule(options.memory_length, options.turn, rate, options.compressed_length)
        super().__init__(d_model, options, schedule, lambda: options.blocks(d_model, num_layers))
        self.compression = options.compression
        self.compression_loss = options.compression_loss
        if self.compression_loss is None and self.compression in LEARNED:
            self.compression_loss = "attention_reconstruction"
        self.isolated = self.compression_loss in ("auto_encoding", "attention_reconstruction")
        self.compressors = nn.ModuleList(Compressor(self.compression, rate, d_model) for _ in range(num_layers))
        if self.compression_loss == "auto_encoding":
            decoders = [nn.Linear(d_model, rate * d_model) for _ in range(num_layers)]
            for decoder in decoders:
                fan_in_normal_(decoder)
            self.decoders = nn.ModuleList(decoders)

    def initial_state(self, batch_size: int, device: torch.device | str | None = None) -> State:
        schedule, layers = self.schedule, self.num_layers
        shapes: dict[str, tuple[int, ...]] = {
            "memory": (layers, schedule.capacity, self.d_model),
            "compressed": (layers, schedule.compressed_length, self.d_model),
        }
        if self.compression == "most_used":
            shapes["usage"] = (layers, schedule.capacity)
        return self.empty_state(batch_size, device, **shapes)

    def forward(self, x: Tensor, state: State, reset: Tensor | None = None) -> CoreOutput:
        check_call(self, x, state, reset)
        # Under autocast the input may come in half precision; the residual stream never is.
        x = x.to(state["memory"].dtype)
        state = {name: tensor.detach() for name, tensor in state.items()}
        outputs = []
        for piece in self.pieces(state["phase"], x.shape[1]):
            y, state, losses, metrics = self.run(x[:, piece], state, None if reset is None else reset[:, piece])
            outputs.append(y)
        state = {name: tensor.detach() for name, tensor in state.items()}
        return CoreOutput(torch.cat(outputs, dim=1), state, losses, metrics)

    def pieces(self, phase: Tensor, steps: int) -> list[slice]:
        """The parts of a call from phase (B,) that can each be run at once.

        The most used steps of a block are known only when the block leaves the memory, so a part ends there.
        """
        if self.compression != "most_used":
            return [slice(0, steps)]
        granularity = self.schedule.granularity
        first = (self.schedule.memory_length - self.schedule.shared_phase(phase)) % granularity
        cuts = sorted({0, steps, *range(first, steps, granularity)})
        return [slice(start, stop) for start, stop in itertools.pairwise(cuts)]

    def run(self, x: Tensor, state: State, reset: Tensor | None) -> CoreOutput:
        """Run one part of a call, x (B, T, D) and reset (B, T); the state that it returns carries gradients."""
        steps = x.shape[1]
        window = self.schedule.window(state["age"], state["phase"], reset, steps)
        evicted = self.schedule.eviction(state["age"], window)
        positions = self.call_positions(window, like=x)
        use = AttentionUse(self.schedule, window)
        watched = self.positions != "rotary" or not self.training or self.compression == "most_used"
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
            x = block(x, remembered, window.views, positions, use if watched else None)
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
        y = self.normalise_output(x)
        return CoreOutput(y, {**tensors, "age": window.age, "phase": window.phase}, named_losses, metrics)

    def compress(self, layer: int, context: Tensor, evicted: Eviction) -> tuple[Tensor, Tensor]:
        """The slots (B, R * G / c, D) of what leaves the steps context (B, C + T, D) of one layer, and their loss.

        Where the compression is trained by a loss of its own, the slots carry no gradient.
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
            counts = compressor.arrange(kept[..., None]) & slot_mask(kept, compressor.rate)[..., None, None]
            loss = auto_encoding(decoded.view_as(expected), expected, counts.squeeze(-1))
        else:
            queries, block = evicted.queries_of(context), cast(TransformerBlock, self.blocks[layer])
            loss = attention_reconstruction(block, queries, evicted.queries_kept, old, kept, slots)
        return slots.flatten(1, 2).detach(), loss

    def stream(self, batch_size: int) -> CompressiveStream:
        return CompressiveStream(self, batch_size)


class CompressiveStream(TransformerXLStream):
    """Steps a `Compressive` core; what leaves its memory is compressed once every `granularity` steps.

    Slots have buffers of their own, which slide as those of the steps do.
    """

    core: Compressive
    blocks: list[CachedBlock[CachedAttention]]

    def __init__(self, core: Compressive, batch_size: int) -> None:
        schedule = core.schedule
        self.new_slots = schedule.granularity // schedule.compression_rate
        self.slot_length = 2 * schedule.compressed_length + self.new_slots
        self.slot_place = 0
        self.all_slots_seen_from = 0
        """From this place on every row sees every slot."""
        super().__init__(core, batch_size)

    def forget(self, reset: Tensor) -> None:
        super().forget(reset)
        self.slot_penalty[reset, : self.slot_place] = -torch.inf
        self.all_slots_seen_from = self.slot_place

    def step_view(self) -> StepView:
        schedule = self.core.schedule
        first_slot = self.slot_place - schedule.compressed_length
        seen = super().step_view()
        penalty = seen.penalty
        if penalty is not None or first_slot < self.all_slots_seen_from:
            (steps,) = seen.steps
            penalty = torch.cat(
                [self.slot_penalty[:, first_slot : self.slot_place], self.penalty[:, steps.keys]], dim=1
            )
        slots = Run(slice(first_slot, self.slot_place), schedule.slot_distance(self.phase), schedule.compression_rate)
        return StepView(self.place, seen.steps, slots, penalty, turn=self.place - self.phase)

    def advance(self) -> None:
        super().advance()
        schedule = self.core.schedule
        if self.phase == schedule.memory_length % schedule.granularity:
            self.compress()

    def compress(self) -> None:
        """Compress the block that has just left the memory into slots."""
        schedule = self.core.schedule
        if self.slot_place + self.new_slots > self.slot_length:
            self.slide_slots()
        end = self.place - schedule.memory_length
        block = slice(end - schedule.granularity, end)
        kept = self.penalty[:, block] == 0  # (B, G)
        new = slice(self.slot_place, self.slot_place + self.new_slots)
        new_kept = slot_mask(kept[:, None], schedule.compression_rate)[:, 0]
        self.slot_penalty[:, new] = torch.zeros_like(self.slot_penalty[:, new]).masked_fill_(~new_kept, -torch.inf)
        if not new_kept.all():
            self.all_slots_seen_from = new.stop
        if new_kept.any():
            for layer, block_cache in enumerate(self.blocks):
                cache = block_cache.attention
                usage = None if cache.usage is None else cache.usage[:, None, block]
                compressor = cast(Compressor, self.core.compressors[layer])
                slots = compressor(self.inputs[layer, :, None, block], kept[:, None], usage)[:, 0]  # (B, G / c, D)
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
            assert block.attention.slots is not None
            block.attention.slots.slide(count, self.slot_place)
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
            usages = torch.stack([cast(Tensor, block.attention.usage) for block in self.blocks], dim=1)
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

    def cached_attention(self, block: TransformerBlock, layer: int, state: State) -> CachedAttention:
        cached = super().cached_attention(block, layer, state)
        schedule = self.core.schedule
        slots = block.normalise_memory(state["compressed"][:, layer].detach())
        nearest, rate = schedule.slot_distance(schedule.memory_length), schedule.compression_rate
        distances = range(nearest, nearest + rate * (schedule.compressed_length - 1) + schedule.granularity)
        cached.slots = self.cache(cast(Attention, block.attention), slots, self.slot_length, distances, rate)
        if self.core.compression == "most_used":
            cached.usage = slots.new_zeros(slots.shape[0], self.length)
            cached.usage[:, : self.capacity] = state["usage"][:, layer]
        return cached
