"""Transformer-XL (Dai et al., 1901.02860), gated as GTrXL (Parisotto et al., 1910.06764) by default."""

from __future__ import annotations

import torch
from torch import Tensor

from memory_cores.attention.base import MemoryTransformer, Positions, transformer_problems
from memory_cores.attention.block import Norm
from memory_cores.attention.schedule import MemorySchedule, push
from memory_cores.attention.stream import TransformerXLStream
from memory_cores.core import CoreOutput, State
from memory_cores.validation import at_least, check_call, raise_problems


class TransformerXL(MemoryTransformer):
    """Transformer-XL: attention to a memory of each layer's past inputs; gated (GTrXL) by default.

    State: memory (B, L, C, D), the last C = memory_length + granularity - 1 inputs of each layer, newest
    last, zeros where unused; age (B,) int64, the slots in use; phase (B,) int64, steps seen modulo
    granularity. Parameters do not depend on memory_length or granularity, so both may differ between training
    and evaluation.
    """

    def __init__(
        self,
        *,
        d_model: int,
        num_layers: int = 2,
        num_heads: int = 4,
        d_ff: int | None = None,
        memory_length: int = 64,
        granularity: int = 1,
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
        raise_problems("transformer_xl", problems + at_least(1, granularity=granularity))
        super().__init__(
            d_model=d_model,
            num_layers=num_layers,
            num_heads=num_heads,
            d_ff=d_ff,
            norm=norm,
            positions=positions,
            dropout=dropout,
            schedule=MemorySchedule(memory_length, granularity),
        )

    def initial_state(self, batch_size: int, device: torch.device | str | None = None) -> State:
        weight = next(self.parameters())
        device = weight.device if device is None else device
        shape = (batch_size, self.num_layers, self.schedule.capacity, self.d_model)
        return {
            "memory": torch.zeros(shape, dtype=weight.dtype, device=device),
            "age": torch.zeros(batch_size, dtype=torch.int64, device=device),
            "phase": torch.zeros(batch_size, dtype=torch.int64, device=device),
        }

    def forward(self, x: Tensor, state: State, reset: Tensor | None = None) -> CoreOutput:
        check_call(self, x, state, reset)
        memory = state["memory"].detach()
        window = self.schedule.window(state["age"], state["phase"], reset, steps=x.shape[1])
        positions = self.positions(window, like=memory)
        x = x.to(memory.dtype)  # under autocast the input may come in half precision; the residual stream never is
        inputs = []
        for layer, block in enumerate(self.blocks):
            inputs.append(x)
            x = block(x, memory[:, layer], window.blocks, positions)
        memory = push(memory, [x.detach() for x in inputs], window.age)
        return CoreOutput(x, {"memory": memory, "age": window.age, "phase": window.phase}, {}, {})

    def stream(self, batch_size: int) -> TransformerXLStream:
        return TransformerXLStream(self, batch_size)
