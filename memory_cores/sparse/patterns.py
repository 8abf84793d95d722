"""The patterns of the Sparse Transformer (Child et al., 1904.10509), each as a band.

The strided pattern's first set is a window (`attention.window`).

In all functions the keys and values (H, B, N, W) belong to N steps in a row, and the queries (H, B, T, W), scaled, to
the last T of them. begin (B, N) is the first key that each step may see. Each returns the attended values (H, B, T, W)
and the log-sum-exp (H, B, T) of the scores, zeros and `band.UNSEEN` where a query sees nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from memory_cores.attention.band import Chunks, window_chunks
from memory_cores.attention.window import Part, attend_in_groups

MIN_QUERIES = 64
"""Fewest queries in a product, unless there are fewer; short blocks would make many small products."""


def columns(query: Tensor, key: Tensor, value: Tensor, begin: Tensor, stride: int, count: int, nearest: int) -> Part:
    """Each step sees those that lie nearest, nearest + 1, ..., count strides before it: the strided pattern's second
    set.

    Steps are folded into rows of `stride`, so that a column of the fold is a window.
    """
    num_queries, num_keys = query.shape[2], key.shape[2]
    padded = -(-num_queries // stride) * stride
    rows = -(-max(num_keys, padded) // stride)
    before = rows * stride - num_keys

    def fold(x: Tensor, length: int) -> Tensor:  # (H, B, ..., W) -> (H, B, stride, length / stride, W)
        x = functional.pad(x, (0, 0, length - x.shape[2], 0))
        return torch.unflatten(x, 2, (-1, stride)).transpose(2, 3)

    unseen = rows * stride
    begin = functional.pad(begin[:, -num_queries:] + before, (padded - num_queries, 0), value=unseen)
    begin = torch.unflatten(begin, 1, (-1, stride)).transpose(1, 2)  # (B, stride, rows of queries)
    residue = torch.arange(stride, device=key.device)[:, None]
    row = torch.arange(rows - padded // stride, rows, device=key.device)
    first = torch.maximum((begin - residue + stride - 1).div(stride, rounding_mode="floor"), row - count)
    chunks = window_chunks(padded // stride, rows, count)
    folded = fold(query, padded), fold(key, rows * stride), fold(value, rows * stride)
    context, log_sum = attend_in_groups(*folded, first, row - nearest, chunks)
    in_time = context.transpose(2, 3).flatten(2, 3), log_sum.transpose(2, 3).flatten(2, 3)
    return in_time[0][:, :, padded - num_queries :], in_time[1][:, :, padded - num_queries :]


def own_block(query: Tensor, key: Tensor, value: Tensor, begin: Tensor, stride: int, phase: int) -> Part:
    """Each step (H, B, T, W) sees itself and the steps before it in its own block of `stride` steps: the fixed
    pattern's first set.

    phase: the place of the first query in its block.
    """
    num_queries, num_keys = query.shape[2], key.shape[2]
    padded = phase + num_queries
    own = torch.arange(num_keys - padded, num_keys, device=key.device)
    block = (own - own[0]).div(stride, rounding_mode="floor") * stride + own[0]
    first = torch.maximum(functional.pad(begin[:, -num_queries:], (phase, 0), value=num_keys), block)
    together = stride * max(1, min(MIN_QUERIES // stride, -(-padded // stride)))
    chunks = Chunks(together, num_keys - padded, together, together)
    context, log_sum = attend_in_groups(functional.pad(query, (0, 0, phase, 0)), key, value, first, own, chunks)
    return context[:, :, phase:], log_sum[:, :, phase:]


def summaries(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    begin: Tensor,
    stride: int,
    phase: int,
    cells: Tensor,
    count: int,
    own: bool,
) -> Part:
    """Each step sees the summary cells of the `count` blocks before its own, and of its own block up to itself if
    `own`: the fixed pattern's second set.

    phase: the place of the first query in its block. cells: (H, summary_length) int64, rising, consecutive places of
    each head's cells in a block.
    """
    num_queries, num_keys = query.shape[2], key.shape[2]
    heads, batch = key.shape[:2]
    padded = phase + num_queries
    blocks = count + -(-padded // stride)
    start = num_keys - padded - count * stride  # the first key of the first block; negative before the first key
    length, first_cell = cells.shape[1], cells[:, :1]

    def pick(x: Tensor) -> Tensor:  # (H, B, N, W) -> (H, B, blocks * c, W)
        whole = torch.unflatten(
            functional.pad(x, (0, 0, -start, start + blocks * stride - num_keys)), 2, (blocks, stride)
        )
        index = cells[:, None, None, :, None].expand(heads, batch, blocks, length, x.shape[3])
        return whole.gather(3, index).flatten(2, 3)

    def cells_before(step: Tensor) -> Tensor:  # (B, S) counted from `start` -> (H, B, S)
        block = step.div(stride, rounding_mode="floor")
        return block * length + (step - block * stride - first_cell[..., None]).clamp(0, length)

    step = torch.arange(count * stride, count * stride + padded, device=key.device)
    block = step.div(stride, rounding_mode="floor")
    begin = functional.pad(begin[:, -num_queries:] - start, (phase, 0), value=blocks * stride)
    first = torch.maximum(cells_before(begin), (block - count) * length)
    last = (cells_before(step[None] + 1) if own else block * length) - 1
    together = max(1, min(MIN_QUERIES // stride, -(-padded // stride)))
    chunks = Chunks(together * stride, 0, together * length, (together + count) * length)
    context, log_sum = attend_in_groups(
        functional.pad(query, (0, 0, phase, 0)), pick(key), pick(value), first, last, chunks
    )
    return context[:, :, phase:], log_sum[:, :, phase:]
