"""The Universal Transformer (Dehghani et al., 1807.03819) over a Transformer-XL memory, with adaptive halting."""

from __future__ import annotations

import copy
from typing import Literal, cast

import torch
from torch import Tensor, nn

from memory_cores.attention.attention import MemoryAttention, RelativePositions, RotaryPositions
from memory_cores.attention.base import MemoryTransformer, Positions, transformer_problems
from memory_cores.attention.block import Norm, TransformerBlock
from memory_cores.attention.cached_block import CachedBlock
from memory_cores.attention.kv_cache import RelativeStepCache, Seen, StepCache
from memory_cores.attention.positions import sinusoids
from memory_cores.attention.schedule import MemorySchedule, Window, push
from memory_cores.attention.stream import TransformerXLStream
from memory_cores.core import CoreOutput, State
from memory_cores.layers.convolution import CausalConvolution
from memory_cores.layers.halting import (
    Halting,
    HaltingUnit,
    Pondering,
    accumulate,
    ponder_problems,
    pondered,
)
from memory_cores.universal.active_steps import Chosen, attend, choose
from memory_cores.validation import at_least, check_call, one_of, raise_problems

Transition = Literal["mlp", "convolution"]
DepthSignal = Literal["sinusoid", "learned"]


class Universal(MemoryTransformer):
    """Universal Transformer: one block repeated in depth, as often as each step needs (ACT); gated by default.

    Step n of the depth, up to `max_ponder_steps`, adds its depth signal to what step n - 1 gave and runs the one
    block over it (section 2.1); positions are relative, so only the depth is signalled and a stream has no end. The
    second sublayer is an MLP or, for "convolution", a separable convolution, ReLU and a linear map, causal over the
    last `convolution_width` steps.

    `halting` lets each step of the sequence stop by itself (section 2.2; `adaptive_computation`); the output is the
    weighted sum of what the depth steps gave, and a loss "ponder" of weight `ponder_cost` is returned. The halting unit
    reads what a depth step gave, as that of Graves does. With "none" all depth steps are run, and the output is what
    the last one gave. Once halted, a step's state is copied to the later depth steps, where other steps attend to it;
    so is the input of its second sublayer for the convolution. Once enough steps have halted, only the others are
    computed.

    The memory holds the input of each depth step without its signal, and depth step n attends to that of depth step n
    alone. State: memory (B, N, C, D) for N = max_ponder_steps and the last C = memory_length + granularity - 1 steps,
    newest last, zeros where unused; transition (B, N, convolution_width - 1, D), likewise the inputs of the
    convolution, if there is one; age (B,) int64, steps of the episode up to the longer of the two; phase (B,) int64,
    steps seen modulo granularity. Parameters depend on neither memory_length nor granularity, nor, but for a learned
    depth signal, on max_ponder_steps, so these may differ between training and evaluation.

    Metrics, unless halting is "none": the mean depth steps and the shares of steps that took so many.
    """

    def __init__(
        self,
        *,
        d_model: int,
        max_ponder_steps: int = 4,
        num_heads: int = 4,
        d_ff: int | None = None,
        memory_length: int = 64,
        granularity: int = 1,
        norm: Norm = "gru",
        positions: Positions = "relative",
        dropout: float = 0.0,
        transition: Transition = "mlp",
        convolution_width: int = 3,
        depth_signal: DepthSignal = "sinusoid",
        halting: Halting = "graves",
        ponder_cost: float = 0.01,
        halting_bias: float = 1.0,
        halting_epsilon: float = 0.01,
    ) -> None:
        problems = transformer_problems(
            d_model=d_model,
            num_layers=1,
            num_heads=num_heads,
            d_ff=d_ff,
            memory_length=memory_length,
            norm=norm,
            positions=positions,
            dropout=dropout,
        )
        problems += at_least(1, granularity=granularity, convolution_width=convolution_width)
        problems += one_of(("mlp", "convolution"), transition=transition)
        problems += one_of(("sinusoid", "learned"), depth_signal=depth_signal)
        problems += ponder_problems(
            halting=halting,
            max_ponder_steps=max_ponder_steps,
            ponder_cost=ponder_cost,
            halting_bias=halting_bias,
            halting_epsilon=halting_epsilon,
        )
        raise_problems("universal", problems)
        history = convolution_width - 1 if transition == "convolution" else 0
        super().__init__(
            d_model=d_model,
            num_layers=1,
            num_heads=num_heads,
            d_ff=d_ff,
            norm=norm,
            positions=positions,
            dropout=dropout,
            schedule=MemorySchedule(memory_length, granularity, history=history),
        )
        self.max_ponder_steps = max_ponder_steps
        self.halting = halting
        self.adaptive = halting != "none"
        self.ponder_cost = ponder_cost
        self.halting_epsilon = halting_epsilon
        self.convolution = CausalConvolution(d_model, convolution_width) if transition == "convolution" else None
        self.learned_signals = None
        if depth_signal == "learned":
            self.learned_signals = nn.Parameter(torch.empty(max_ponder_steps, d_model))
            nn.init.normal_(self.learned_signals, std=0.02)
        if self.adaptive:
            self.halting_unit = HaltingUnit(d_model, halting_bias)

    @property
    def block(self) -> TransformerBlock:
        """The one block of all depth steps."""
        return cast(TransformerBlock, self.blocks[0])

    def depth_signals(self, like: Tensor) -> Tensor:
        """(N, D), what is added to the input of each depth step."""
        if self.learned_signals is not None:
            return self.learned_signals
        steps = torch.arange(1, self.max_ponder_steps + 1, device=like.device)
        return sinusoids(steps, self.d_model, like.dtype)

    def initial_state(self, batch_size: int, device: torch.device | str | None = None) -> State:
        weight = next(self.parameters())
        device = weight.device if device is None else device
        lengths = {"memory": self.schedule.capacity}
        if self.convolution is not None:
            lengths["transition"] = self.convolution.width - 1
        state = {
            name: torch.zeros(
                batch_size, self.max_ponder_steps, length, self.d_model, dtype=weight.dtype, device=device
            )
            for name, length in lengths.items()
        }
        count = torch.zeros(batch_size, dtype=torch.int64, device=device)
        return {**state, "age": count, "phase": count.clone()}

    def forward(self, x: Tensor, state: State, reset: Tensor | None = None) -> CoreOutput:
        check_call(self, x, state, reset)
        before = {name: tensor.detach() for name, tensor in state.items()}
        window = self.schedule.window(before["age"], before["phase"], reset, steps=x.shape[1])
        positions = self.positions(window, like=before["memory"])
        x = x.to(before["memory"].dtype)  # under autocast the input may come in half precision; the stream never is
        pondering = Pondering(x.shape[:2], x, max_steps=self.max_ponder_steps, epsilon=self.halting_epsilon)
        result, entering = torch.zeros_like(x), torch.zeros_like(x)
        memories, transitions = [], []
        chosen = Chosen(pondering.running, None, [block.stop - block.start for block in window.blocks])
        for depth, signal in enumerate(self.depth_signals(like=x)):
            memories.append(x.detach())
            if not chosen.none:
                past = {name: tensor[:, depth] for name, tensor in before.items() if name in ("memory", "transition")}
                y, entering = self.run(x, signal, past, window, positions, chosen, entering)
                x = chosen.into(x, y)
            if self.adaptive and not chosen.none:
                probability = chosen.into(pondering.used.detach(), self.halting_unit(y))
                weight = pondering.weigh(probability)
                result = chosen.into(result, accumulate(self.halting, chosen.of(result), y, chosen.of(weight)))
                chosen = choose(pondering.running, window.blocks)
            transitions.append(entering.detach())

        after = {"memory": push(before["memory"], memories, window.age)}
        if "transition" in before:
            after["transition"] = push(before["transition"], transitions, window.age)
        after |= {"age": window.age, "phase": window.phase}
        if not self.adaptive:
            return CoreOutput(x, after, {}, {})
        return pondered(
            result,
            after,
            pondering.steps,
            pondering.remainder,
            ponder_cost=self.ponder_cost,
            max_steps=self.max_ponder_steps,
        )

    def run(
        self,
        x: Tensor,
        signal: Tensor,
        past: State,
        window: Window,
        positions: RelativePositions | RotaryPositions,
        chosen: Chosen,
        entering: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """One depth step: what it gives (B, Q, D) for the chosen steps of x (B, T, D), and the inputs (B, T, D) of its
        second sublayer.

        signal: (D,). past: the state of this depth step. entering: (B, T, D), these inputs one depth step earlier.
        """
        block = self.block
        x = x + signal
        attention = cast(MemoryAttention, block.attention)
        memory = block.normalise_memory(past["memory"] + signal)
        attended = attend(attention, block.normalise_memory(x), memory, window.blocks, positions, chosen)
        h = block.after_attention(chosen.of(x), attended)
        inner = block.mlp_input(h)
        if self.convolution is not None:
            entering = chosen.into(entering, inner)
            inner = self.convolution(entering, past["transition"], window.episode, chosen.steps)
        return block.after_mlp(h, block.mlp(inner)), entering

    def stream(self, batch_size: int) -> UniversalStream:
        return UniversalStream(self, batch_size)


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
