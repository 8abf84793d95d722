"""What the blocks of a call share where attention follows bands: beginnings of episodes, phase, rotary angles."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from memory_cores.attention.positions import rotary_table, rotate

BandPositions = Literal["rotary", "none"]


class BandCall(NamedTuple):
    """A call's N keys are M remembered steps and then its T own steps; its queries are the last T of the keys."""

    begin: Tensor
    """(B, N) int64, the first key that each key may see: of its episode, and remembered."""
    phase: int
    """The phase of the first query in the memory schedule."""
    rotary: tuple[Tensor, Tensor] | None
    """The cosines and sines, each (N, W / 2), of the keys' positions; None without positions."""
    groups: list[Tensor]
    """(H, B, T) int64 for each layer that sorts steps into groups, the group of each query; filled by the layers."""

    def turn(self, x: Tensor) -> Tensor:
        """Queries or keys (..., N, W), or those of the last steps alone, rotated by their positions, if they have
        any."""
        if self.rotary is None:
            return x
        cosine, sine = self.rotary
        first = len(cosine) - x.shape[-2]
        return rotate(x, cosine[first:], sine[first:])


def band_call(
    age: Tensor, episode: Tensor, memory: int, capacity: int, phase: int, rotary_width: int | None, like: Tensor
) -> BandCall:
    """The call of T steps after `memory` remembered ones, where a step remembers at most `capacity` steps.

    age: (B,) int64 before the call. episode: (B, T) int64, where the episode of each step begins, counted from the
    first step. rotary_width: the width of a head, if positions are rotary. like: gives dtype and device.
    """
    key = torch.arange(memory + episode.shape[1], device=age.device)
    first, before = (memory - age)[:, None], key[:memory]
    # A remembered step before the present episode begins an episode of its own, so that no step sees it.
    of_memory = torch.where(before >= first, first, before)
    begin = torch.cat([of_memory, memory + episode], dim=1).maximum(key - capacity).clamp(min=0)
    rotary = None if rotary_width is None else rotary_table(key - memory, rotary_width, like.dtype)
    return BandCall(begin, phase, rotary, [])
