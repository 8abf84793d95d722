"""The Universal Transformer (Dehghani et al., 1807.03819) over a Transformer-XL memory, with adaptive halting."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn

from memory_cores.attention.attention import Attention
from memory_cores.attention.base import AttentionOptions, MemoryTransformer
from memory_cores.attention.block import TransformerBlock
from memory_cores.attention.cached_block import CachedBlock
from memory_cores.attention.kv_cache import CachedAttention, RelativeCache, StepView
from memory_cores.attention.positions import RelativePositions, RotaryPositions, sinusoids
from memory_cores.attention.schedule import MemorySchedule, Window, push
from memory_cores.attention.stream import TransformerXLStream
from memory_cores.core import CoreOutput, State
from memory_cores.layers.convolution import CausalConvolution
from memory_cores.layers.halting import (
    HaltingOptions,
    HaltingProgress,
    HaltingUnit,
    accumulate,
    output_with_ponder_loss,
)
from memory_cores.options import at_least, one_of
from memory_cores.universal.active_steps import ActiveSteps, find_active
from memory_cores.validation import check_call

Transition = Literal["mlp", "convolution"]
DepthSignal = Literal["sinusoid", "learned"]


@dataclass(frozen=True, kw_only=True)
class UniversalOptions(AttentionOptions, HaltingOptions):
    """The options of `Universal`."""

    max_ponder_steps: int = 4
    """Depth steps U, each one run of the same block, with a memory of its own (section 2.1). With halting it is the
    most that a step of the sequence may take, without halting each takes all."""
    granularity: int = 1
    """Steps by which the memory moves on at a time: 1 is an exact sliding window, and the segment length is the
    schedule of Transformer-XL. Unroll and segment lengths must be multiples of it."""
    transition: Transition = "mlp"
    """The block's second sublayer (section 2.1): an MLP, or a separable convolution over the last steps, a ReLU and a
    linear map. The convolution suits tasks in which neighbouring steps matter."""
    convolution_width: int = 3
    """Taps of the convolution: the steps that it sees, its own included. Has no effect on an MLP."""
    depth_signal: DepthSignal = "sinusoid"
    """What tells depth steps apart: sinusoids of the depth step's number (section 2.1), or learned vectors,
    with which max_ponder_steps cannot be changed after training."""

    def problems(self, d_model: int) -> list[str]:
        problems = super().problems(d_model)
        problems += at_least(1, granularity=self.granularity, convolution_width=self.convolution_width)
        problems += one_of(Transition, transition=self.transition)
        return problems + one_of(DepthSignal, depth_signal=self.depth_signal)


class Universal(MemoryTransformer):
    """Universal Transformer: one block repeated in depth, as often as each step needs (ACT); gated by default.

    With the depth signals e^u and the remembered states s^u_mem, each depth step u = 1 ... U runs the one block:

        s^u_t = block(s^{u-1}_t + e^u, keys and values of [s^{u-1}_mem, s^{u-1}] + e^u),   s^0 = x
        y_t   = sum_u p^u_t s^u_t over the depth steps that t takes, p their halting weights

    (sections 2.1 and 2.2). U is `max_ponder_steps`. Positions are relative, so only depth needs a signal, and a stream
    may be of any length. The second sublayer is an MLP or, for "convolution", a separable convolution, a ReLU and a
    linear map, causal over the last `convolution_width` steps. An independent plain loop is
    tests/memory_cores/plain_universal.py.

    With `halting` each step of the sequence stops by itself (`memory_cores.layers.halting`), and a loss "ponder" of
    weight `ponder_cost` is returned. The halting unit reads the output of a depth step, as that of Graves does. With
    "none" all depth steps are run, and the output is that of the last one. Once a step has halted, its state is copied
    to the later depth steps, where other steps attend to it; so is the input of its convolution. Once enough steps have
    halted, only the others are computed.

    The memory holds the input of each depth step without its signal, and a depth step attends to its own memory alone.
    State: memory (B, U, C, D), the last C = memory_length + granularity - 1 steps, newest last, zeros where unused;
    transition (B, U, convolution_width - 1, D), likewise the inputs of the convolution, if there is one; age (B,)
    int64, steps of the episode, at most the longer of the two; phase (B,) int64, steps seen modulo granularity. The
    parameters depend neither on memory_length nor on granularity and, unless the depth signal is learned, not on
    max_ponder_steps, so these may differ between training and evaluation.

    Metrics, unless halting is "none": the mean number of depth steps, and the fraction of steps that halt at each
    depth.

    >>> import memory_cores
    >>> core = memory_cores.build("universal", d_model=8, memory_length=3)
    >>> x, stream = torch.randn(2, 5, 8), core.stream(batch_size=2)
    >>> y = core(x, core.initial_state(batch_size=2)).y
    >>> stepped = torch.stack([stream.step(x[:, t]) for t in range(5)], dim=1)
    >>> torch.allclose(y, stepped, atol=1e-5)
    True
    """

    Options = UniversalOptions

    def __init__(self, d_model: int, options: UniversalOptions) -> None:
        history = options.convolution_width - 1 if options.transition == "convolution" else 0
        schedule = MemorySchedule(options.memory_length, options.granularity, history=history)
        super().__init__(d_model, options, schedule, lambda: options.blocks(d_model, 1))
        self.max_ponder_steps = options.max_ponder_steps
        self.halting = options.halting
        self.adaptive = options.halting != "none"
        self.ponder_cost = options.ponder_cost
        self.halting_epsilon = options.halting_epsilon
        self.convolution = None
        if options.transition == "convolution":
            self.convolution = CausalConvolution(d_model, options.convolution_width)
        self.learned_signals = None
        if options.depth_signal == "learned":
            self.learned_signals = nn.Parameter(torch.empty(self.max_ponder_steps, d_model))
            nn.init.normal_(self.learned_signals, std=0.02)
        if self.adaptive:
            self.halting_unit = HaltingUnit(d_model, options.halting_bias)

    @property
    def block(self) -> TransformerBlock:
        """The one block of all depth steps."""
        return cast(TransformerBlock, self.blocks[0])

    def depth_signals(self, like: Tensor) -> Tensor:
        """(U, D), what is added to the input of each depth step."""
        if self.learned_signals is not None:
            return self.learned_signals
        steps = torch.arange(1, self.max_ponder_steps + 1, device=like.device)
        return sinusoids(steps, self.d_model, like.dtype)

    def initial_state(self, batch_size: int, device: torch.device | str | None = None) -> State:
        depth = self.max_ponder_steps
        shapes: dict[str, tuple[int, ...]] = {"memory": (depth, self.schedule.capacity, self.d_model)}
        if self.convolution is not None:
            shapes["transition"] = (depth, self.convolution.width - 1, self.d_model)
        return self.empty_state(batch_size, device, **shapes)

    def forward(self, x: Tensor, state: State, reset: Tensor | None = None) -> CoreOutput:
        check_call(self, x, state, reset)
        before = {name: tensor.detach() for name, tensor in state.items()}
        window = self.schedule.window(before["age"], before["phase"], reset, steps=x.shape[1])
        positions = self.call_positions(window, like=before["memory"])
        # Under autocast the input may come in half precision; the residual stream never is.
        x = x.to(before["memory"].dtype)
        progress = HaltingProgress(x.shape[:2], x, max_steps=self.max_ponder_steps, epsilon=self.halting_epsilon)
        result, entering = torch.zeros_like(x), torch.zeros_like(x)
        memories, transitions = [], []
        steps = ActiveSteps(progress.running, window.views)
        for depth, signal in enumerate(self.depth_signals(like=x)):
            memories.append(x.detach())
            if not steps.none:
                past = {name: tensor[:, depth] for name, tensor in before.items() if name in ("memory", "transition")}
                y, entering = self.run(x, signal, past, window, positions, steps, entering)
                x = steps.scatter(x, y)
            if self.adaptive and not steps.none:
                probability = steps.scatter(progress.used.detach(), self.halting_unit(y))
                weight = progress.weigh(probability)
                taken_in = accumulate(self.halting, steps.gather(result), y, steps.gather(weight))
                result = steps.scatter(result, taken_in)
                steps = find_active(progress.running, window.views)
            transitions.append(entering.detach())

        after = {"memory": push(before["memory"], memories, window.age)}
        if "transition" in before:
            after["transition"] = push(before["transition"], transitions, window.age)
        after |= {"age": window.age, "phase": window.phase}
        if not self.adaptive:
            return CoreOutput(self.normalise_output(x), after, {}, {})
        return output_with_ponder_loss(
            self.normalise_output(result),
            after,
            progress.steps,
            progress.remainder,
            ponder_cost=self.ponder_cost,
            max_steps=self.max_ponder_steps,
        )

    def run(
        self,
        x: Tensor,
        signal: Tensor,
        past: State,
        window: Window,
        positions: RelativePositions | RotaryPositions | None,
        steps: ActiveSteps,
        entering: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """One depth step: its output (B, A, D) for the active steps of x (B, T, D), and its convolution's inputs (B, T,
        D).

        signal: (D,). past: the state of this depth step. entering: (B, T, D), those inputs in the previous depth step.
        """
        block = self.block
        x = x + signal
        attention = cast(Attention, block.attention)
        memory = block.normalise_memory(past["memory"] + signal)
        attended = steps.attend(attention, block.normalise_memory(x), memory, positions)
        h = block.after_attention(steps.gather(x), attended)
        inner = block.mlp_input(h)
        if self.convolution is not None:
            entering = steps.scatter(entering, inner)
            inner = self.convolution(entering, past["transition"], window.episode, steps.steps)
        return block.after_mlp(h, block.run_mlp(inner)), entering

    def stream(self, batch_size: int) -> UniversalStream:
        return UniversalStream(self, batch_size)


class UniversalStream(TransformerXLStream):
    """Steps a `Universal` core; once every row has halted, the later depth steps only store the states."""

    core: Universal
    blocks: list[CachedBlock[CachedAttention]]

    def forget(self, reset: Tensor) -> None:
        super().forget(reset)
        if self.core.convolution is not None:
            self.transitions.masked_fill_(reset[:, None], 0.0)

    def transform(self, x: Tensor, seen: StepView) -> Tensor:
        core = self.core
        progress = HaltingProgress(
            x.shape[:1], self.inputs, max_steps=core.max_ponder_steps, epsilon=core.halting_epsilon
        )
        x = x.to(self.inputs.dtype)
        result, entering = torch.zeros_like(x), torch.zeros_like(x)
        for depth, block in enumerate(self.blocks):
            running = progress.running[:, None]
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
                weight = progress.weigh(core.halting_unit(y))
                result = accumulate(core.halting, result, y, weight)
        return result if core.adaptive else x

    def copy(self, depth: int, x: Tensor, entering: Tensor) -> None:
        """Store the state x and the input entering (B, D) in the depth steps from `depth` on, which no row runs."""
        self.inputs[depth:, :, self.place] = x
        entries = self.core.block.normalise_memory(x + self.signals[depth:, None])
        for block, entry in zip(self.blocks[depth:], entries, strict=True):
            block.attention.remember(entry, self.place)
        if self.core.convolution is not None:
            for later in range(depth, len(self.blocks)):
                self.remember_transition(later, entering)

    def remember_transition(self, depth: int, entering: Tensor) -> None:
        """Store entering (B, D) as the newest input of one depth step's convolution."""
        past = self.transitions[depth]
        self.transitions[depth] = torch.cat([past[1:], entering[None]])[: len(past)]

    def cached_blocks(self, state: State) -> list[CachedBlock[CachedAttention]]:
        core, block = self.core, self.core.block
        self.signals = core.depth_signals(like=state["memory"]).detach()
        memory = state["memory"].detach() + self.signals[:, None]
        first = CachedBlock(block, self.cached_attention(block, 0, {"memory": memory}), self.batch_size)
        cached = [first]
        for depth in range(1, core.max_ponder_steps):
            cached.append(copy.copy(first))
            cached[depth].attention = self.cached_attention(block, depth, {"memory": memory})
            share_weights(first.attention, cached[depth].attention)
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
            """(U, taps - 1, B, D), for each depth step the last inputs of the convolution, newest last."""


def share_weights(first: CachedAttention, other: CachedAttention) -> None:
    """Let `other` use the tensors that `first` derived from the same weights, so that only one copy is read."""
    other.qkv = first.qkv
    if isinstance(first.steps, RelativeCache) and isinstance(other.steps, RelativeCache):
        other.steps.terms = first.steps.terms
