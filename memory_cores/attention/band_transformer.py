"""The base class of the cores whose blocks attend to bands of a memory of steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from memory_cores.attention.band_call import BandCall, BandPositions, band_call
from memory_cores.attention.base import MemoryTransformer, ReversibleOptions
from memory_cores.attention.schedule import Timing, push
from memory_cores.core import CoreOutput, State
from memory_cores.validation import check_call


@dataclass(frozen=True, kw_only=True)
class BandOptions(ReversibleOptions):
    """The options that differ from those of other attention cores."""

    position_kinds: ClassVar[Any] = BandPositions

    num_layers: int = 2
    """Stacked blocks, each with a memory of its own; cost grows in proportion."""
    positions: BandPositions = "rotary"
    """How attention knows distance. rotary: Su et al., 2104.09864; none: by content alone, for inputs whose order does
    not matter."""
    dropout: float = 0.0
    """Dropout rate of the MLP's hidden layer and of both sublayers' outputs, not of attention weights (Child et al.,
    1904.10509); 0 or more and below 1. Raise it where the held-out loss rises while the training loss
    falls."""


class BandTransformer(MemoryTransformer):
    """Blocks that are called as block(x, memory, call) with a `BandCall`."""

    def initial_state(self, batch_size: int, device: torch.device | str | None = None) -> State:
        return self.empty_state(batch_size, device, memory=(self.num_layers, self.schedule.capacity, self.d_model))

    def forward(self, x: Tensor, state: State, reset: Tensor | None = None) -> CoreOutput:
        check_call(self, x, state, reset)
        memory, age = state["memory"].detach(), state["age"]
        timing = self.schedule.timing(age, state["phase"], reset, steps=x.shape[1])
        # Places that no row has filled yet are left out, so that a long memory costs nothing before it is used.
        used = int(age.max().clamp(max=memory.shape[2]))
        call = self.call(x, state, timing, used)
        y, inputs = self.run_blocks(
            x.to(memory.dtype), memory[:, :, memory.shape[2] - used :], call, *self.shared(state)
        )
        after = {"memory": push(memory, inputs, timing.age), "age": timing.age, "phase": timing.phase}
        return CoreOutput(y, state | after, *self.losses_and_metrics(call))

    def groups(self, x: Tensor, reset: Tensor) -> list[Tensor]:
        """For each layer the groups (H, B, T) int64 of the steps x (B, T, D) of new streams with reset (B, T); empty
        for a core that does not group steps."""
        state = self.initial_state(len(x))
        call = self.call(x, state, self.schedule.timing(state["age"], state["phase"], reset, x.shape[1]), 0)
        self.run_blocks(x, state["memory"][:, :, :0], call, *self.shared(state))
        return call.groups

    def call(self, x: Tensor, state: State, timing: Timing, used: int) -> BandCall:
        """What the blocks of the call of x (B, T, D) share; `used` of the remembered steps are given to them."""
        width = self.head_width if self.positions == "rotary" else None
        capacity, phase = self.schedule.capacity, timing.first_phase
        return band_call(state["age"], timing.episode, used, capacity, phase, width, like=state["memory"])

    def shared(self, state: State) -> tuple[Tensor, ...]:
        """Tensors (B, ...) of the state that blocks are given besides their memory and the call."""
        return ()

    def losses_and_metrics(self, call: BandCall) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """What the blocks left on a call for the trainer."""
        return {}, {}
