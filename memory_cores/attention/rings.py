"""The latest members of each group, kept for single steps."""

from __future__ import annotations

import torch
from torch import Tensor


class Rings:
    """For each round, head, row and group the places of its last `window` members among the cached steps."""

    def __init__(self, group: Tensor, num_groups: int, window: int) -> None:
        """group: (rounds, H, B, N) int64, the groups of the first N cached steps."""
        rounds, heads, batch, steps = group.shape
        self.window = window
        counts = group.new_zeros(rounds, heads, batch, num_groups)
        self.count = counts.scatter_add_(-1, group, torch.ones_like(group))
        """(rounds, H, B, groups) int64, the members that each group has had."""
        # The order of a step among the members of its group, from which its slot in the ring follows.
        order = (group * steps + torch.arange(steps, device=group.device)).argsort(dim=-1)
        sorted_group = group.gather(-1, order)
        first = (self.count.cumsum(dim=-1) - self.count).gather(-1, sorted_group)
        member = torch.arange(steps, device=group.device) - first
        is_kept = member >= self.count.gather(-1, sorted_group) - window
        spare = num_groups * window
        slot = torch.where(is_kept, sorted_group * window + member % window, spare)
        flat = group.new_full((rounds, heads, batch, spare + 1), -1).scatter_(-1, slot, order)
        self.places = torch.unflatten(flat[..., :-1], -1, (num_groups, window)).clone()
        """(rounds, H, B, groups, window) int64, in no order; negative where there is none or it has left the cache."""

    def members(self, group: Tensor) -> Tensor:
        """(H, B, rounds * window) int64, the places of the members of the groups (rounds, H, B), each place once;
        negative elsewhere."""
        found = self.places.gather(3, group[..., None, None].expand(*group.shape, 1, self.window)).squeeze(3)
        if len(found) == 1:
            return found[0]
        joined = found.movedim(0, 2).flatten(2).sort(dim=-1).values
        is_repeated = joined[..., 1:] == joined[..., :-1]
        joined[..., 1:].masked_fill_(is_repeated, -1)
        return joined

    def add(self, group: Tensor, place: int) -> None:
        """A step at `place` joins the groups (rounds, H, B)."""
        group = group[..., None]
        slot = group * self.window + self.count.gather(-1, group) % self.window
        self.places.flatten(3).scatter_(-1, slot, place)
        self.count.scatter_add_(-1, group, torch.ones_like(group))

    def slide(self, distance: int) -> None:
        """The cached steps moved `distance` places to the front."""
        self.places -= distance
