"""Single steps of attention to cached steps that are chosen one by one."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from memory_cores.attention.kv_cache import CachedAttention, KeyValueCache, StepAttention, StepView

Watch = Callable[[Tensor, Tensor], None]
"""A function that is called with the distances (H, B, K) int64 of the steps that a step sees, in steps, and their
attention weights (H, B, K)."""


class ChoosingAttention(StepAttention):
    """One layer's attention for single steps, some of whose heads choose the steps that they see."""

    watch: Watch | None = None
    """Is told of each step what these heads see."""


class SelectedAttention(CachedAttention, ChoosingAttention):
    """One layer's attention for single steps, which touches only the keys and values that each head and row selects."""

    def attend(self, x: Tensor, seen: StepView) -> Tensor:
        projected = torch.mm(x, self.qkv).view(-1, 3, self.num_heads, self.head_width).permute(1, 2, 0, 3)
        query = self.steps.enter(projected, seen.place)
        places, penalty = self.select(seen)
        context, weights = attend_to_places(self.steps, query, places, penalty)
        if self.watch is not None:
            self.watch((seen.place - places).expand_as(weights), weights)
        return context.transpose(0, 1).reshape(x.shape)

    @abstractmethod
    def select(self, seen: StepView) -> tuple[Tensor, Tensor]:
        """The places (H, B, K) int64 that each head and row sees, and what is added to their scores (H, B, K): 0, or
        -inf at a place that is not seen after all. Either may have 1 for H or B."""


def attend_to_places(cache: KeyValueCache, query: Tensor, places: Tensor, penalty: Tensor) -> tuple[Tensor, Tensor]:
    """The attended values (H, B, W) of scaled queries (H, B, W), and the weights (H, B, K); zeros where nothing is
    seen.

    places: (H, B, K) int64. penalty: (H, B, K). Either may have 1 for H or B.
    """
    heads, batch, width = query.shape
    length = cache.buffer.shape[3]
    row = torch.arange(heads * batch, device=query.device).view(heads, batch, 1)
    at = (length * row + places).flatten()
    keys, values = (cache.buffer[part].view(-1, width)[at].view(heads * batch, -1, width) for part in (0, 1))
    scores = torch.bmm(query.reshape(-1, 1, width), keys.transpose(1, 2)).view(heads, batch, -1) + penalty
    # A softmax that gives zeros where every score is -inf.
    weights = (scores - scores.amax(dim=-1, keepdim=True).clamp(min=torch.finfo(scores.dtype).min)).exp()
    weights /= weights.sum(dim=-1, keepdim=True).clamp(min=torch.finfo(scores.dtype).tiny)
    return torch.bmm(weights.view(heads * batch, 1, -1), values).view(query.shape), weights
