"""Transformer-XL (Dai et al., 1901.02860), gated as GTrXL (Parisotto et al., 1910.06764) by default."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from memory_cores.attention.base import MemoryTransformer, ReversibleOptions
from memory_cores.attention.schedule import MemorySchedule, push
from memory_cores.attention.stream import TransformerXLStream
from memory_cores.core import CoreOutput, State
from memory_cores.options import at_least
from memory_cores.validation import check_call


@dataclass(frozen=True, kw_only=True)
class TransformerXLOptions(ReversibleOptions):
    """The options of `TransformerXL`."""

    num_layers: int = 2
    """Stacked blocks, each with a memory of its own. Through their memories information reaches num_layers times
    memory_length steps back; cost grows in proportion."""
    granularity: int = 1
    """Steps by which the memory moves on at a time. 1 is an exact sliding window; the segment length is the paper's
    schedule (section 3.2), which is cheaper in training. Unroll and segment lengths must be multiples of it."""

    def problems(self, d_model: int) -> list[str]:
        sizes = at_least(1, num_layers=self.num_layers, granularity=self.granularity)
        return super().problems(d_model) + sizes


class TransformerXL(MemoryTransformer):
    """Transformer-XL: attention to a memory of each layer's past inputs; gated (GTrXL) by default.

    Layer n at step t, with its input x^n and the inputs x^n_mem that it remembers (section 3.2, equations):

        x^{n+1}_t = block(x^n_t, keys and values of [x^n_mem, x^n]),   x^n_mem' = the newest of [x^n_mem, x^n]

    An independent plain loop is `plain_stream` in tests/memory_cores/test_transformer_xl.py.

    State: memory (B, L, C, D), the last C = memory_length + granularity - 1 inputs of each layer, newest last, zeros
    where unused; age (B,) int64, steps of the episode, at most C; phase (B,) int64, steps seen modulo granularity. The
    parameters depend neither on memory_length nor on granularity, so both may differ between training and evaluation.

    >>> import memory_cores
    >>> core = memory_cores.build("transformer_xl", d_model=8, memory_length=3)
    >>> x, stream = torch.randn(2, 5, 8), core.stream(batch_size=2)
    >>> y = core(x, core.initial_state(batch_size=2)).y
    >>> stepped = torch.stack([stream.step(x[:, t]) for t in range(5)], dim=1)
    >>> torch.allclose(y, stepped, atol=1e-5)
    True
    """

    Options = TransformerXLOptions

    def __init__(self, d_model: int, options: TransformerXLOptions) -> None:
        schedule = MemorySchedule(options.memory_length, options.granularity)
        super().__init__(d_model, options, schedule, lambda: options.blocks(d_model, options.num_layers))

    def initial_state(self, batch_size: int, device: torch.device | str | None = None) -> State:
        return self.empty_state(batch_size, device, memory=(self.num_layers, self.schedule.capacity, self.d_model))

    def forward(self, x: Tensor, state: State, reset: Tensor | None = None) -> CoreOutput:
        check_call(self, x, state, reset)
        memory = state["memory"].detach()
        window = self.schedule.window(state["age"], state["phase"], reset, steps=x.shape[1])
        positions = self.call_positions(window, like=memory)
        x = x.to(memory.dtype)  # under autocast the input may come in half precision; the residual stream never is
        y, inputs = self.run_blocks(x, memory, window.views, positions)
        memory = push(memory, inputs, window.age)
        return CoreOutput(y, {"memory": memory, "age": window.age, "phase": window.phase}, {}, {})

    def stream(self, batch_size: int) -> TransformerXLStream:
        return TransformerXLStream(self, batch_size)
