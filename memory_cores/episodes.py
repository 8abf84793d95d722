"""Cutting a batch of streams at its resets into episode pieces that a recurrent network runs side by side."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence


class EpisodePieces(NamedTuple):
    """P pieces of episodes, longest first, and where their steps lie in the packed order of N = B * T steps.

    The packed order is that of torch's PackedSequence: the first steps of all pieces, then the second steps,
    ...
    """

    row: Tensor
    """(P,), the batch row of each piece."""
    continues: Tensor
    """(P,) bool, True where the piece goes on from its row's state and False where an episode begins."""
    last: Tensor
    """(B,), the last piece of each row."""
    order: Tensor
    """(N,), for each packed step its place in the batch, row by row."""
    batch_sizes: Tensor
    """(longest piece,) on the CPU: how many pieces have a first, second, ... step."""

    def pack(self, x: Tensor) -> PackedSequence:
        """x (B, T, D) as one packed batch."""
        return PackedSequence(x.flatten(0, 1)[self.order], self.batch_sizes)

    def unpack(self, packed: PackedSequence, steps: int) -> Tensor:
        """The packed batch as (B, T, D) again."""
        return packed.data[self.order.argsort()].view(-1, steps, packed.data.shape[-1])


def cut_at_resets(reset: Tensor) -> EpisodePieces:
    """The pieces of reset (B, T), True at the first step of an episode."""
    batch, steps = reset.shape
    begins = reset.clone()
    begins[:, 0] = True
    row, start = begins.nonzero(as_tuple=True)
    flat_start = row * steps + start
    length = torch.diff(flat_start, append=flat_start.new_tensor([batch * steps]))
    longest_first = length.argsort(descending=True, stable=True)
    rank = longest_first.argsort()

    piece = begins.flatten().cumsum(0) - 1  # (N,): the piece of each step
    step_in_piece = torch.arange(batch * steps, device=reset.device) - flat_start[piece]
    return EpisodePieces(
        row=row[longest_first],
        continues=~reset[row, start][longest_first],
        last=rank[piece[steps - 1 :: steps]],
        order=(step_in_piece * len(row) + rank[piece]).argsort(),
        batch_sizes=step_in_piece.bincount().cpu(),
    )
