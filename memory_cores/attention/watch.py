"""How much attention goes to the memory: shares of the weights, and what each remembered step receives."""

from __future__ import annotations

import torch
from torch import Tensor

from memory_cores.attention.patterns import View
from memory_cores.attention.schedule import MemorySchedule, Window


class AttentionUse:
    """Watches the attention of a call, one layer after another.

    The memory of a query is made of the steps before its own turn of the schedule, that is, before the last multiple of
    the granularity; with aligned segments, the steps before its segment.
    """

    def __init__(self, schedule: MemorySchedule, window: Window) -> None:
        self.schedule = schedule
        self.window = window
        self.shares: list[Tensor] = []
        """For each layer, the shares (3,) of compressed slots, memory and present in the attention of the call's last
        step, averaged over rows and heads."""
        self.received: Tensor | None = None
        """(B, C + T), in the present layer the attention that each remembered and new step has received as memory so
        far, summed over queries and averaged over heads; not counted if None."""

    def __call__(self, view: View, weights: Tensor) -> None:
        """weights: (B, H, S, K) of a view."""
        slots, keys = view.num_slots, weights.shape[-1] - view.num_slots
        phase = self.window.first_phase
        if self.received is not None:
            query = torch.arange(view.start, view.stop, device=weights.device)[:, None]
            key = torch.arange(view.stop - keys, view.stop, device=weights.device)
            remembered = key < query - (phase + query) % self.schedule.granularity
            attention = weights[..., slots:].mean(dim=1) * remembered
            stop = self.schedule.capacity + view.stop
            self.received[:, stop - keys : stop] += attention.sum(dim=1)
        if view.stop == self.window.episode.shape[1]:
            present = (phase + view.stop - 1) % self.schedule.granularity + 1
            last = weights[:, :, -1].mean(dim=(0, 1))
            parts = (last[:slots], last[slots:-present], last[-present:])
            self.shares.append(torch.stack([part.sum() for part in parts]))

    def metrics(self) -> dict[str, Tensor]:
        """The shares, averaged over layers."""
        shares = torch.stack(self.shares).mean(dim=0)
        names = ("compressed_attention", "memory_attention", "present_attention")
        return dict(zip(names, shares, strict=True))
