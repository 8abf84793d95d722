"""Sliding windows: each step sees itself and the steps before it."""

from __future__ import annotations

import torch
from torch import Tensor

from memory_cores.attention.band import Chunks, band_attention, window_chunks

Part = tuple[Tensor, Tensor]
"""Attended values (H, B, ..., T, W) and the log-sum-exp (H, B, ..., T) of the scores."""


def window_attention(query: Tensor, key: Tensor, value: Tensor, begin: Tensor, length: int) -> Part:
    """Each step sees itself and the `length` steps before it, from its beginning on.

    query: (H, B, T, W), scaled, of the last T of N steps. key, value: (H, B, N, W). begin: (B, N) int64.
    """
    num_queries, num_keys = query.shape[2], key.shape[2]
    own = torch.arange(num_keys - num_queries, num_keys, device=key.device)
    first = torch.maximum(begin[:, -num_queries:], own - length)
    return attend_in_groups(query, key, value, first, own, window_chunks(num_queries, num_keys, length))


def attend_in_groups(query: Tensor, key: Tensor, value: Tensor, first: Tensor, last: Tensor, chunks: Chunks) -> Part:
    """`band_attention` of tensors (H, B, ..., S, W) for (groups, S, W); first and last (..., S) broadcast over them."""
    groups = query.shape[:-2]
    query, key, value = (x.flatten(0, -3) for x in (query, key, value))
    first, last = (bound.expand(*groups, -1).flatten(0, -2) for bound in (first, last))
    context, log_sum = band_attention(query, key, value, first, last, chunks)
    return torch.unflatten(context, 0, groups), torch.unflatten(log_sum, 0, groups)
