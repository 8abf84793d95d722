"""Losses that train the compression of a Compressive Transformer (Rae et al., 1911.05507, section 3.2).

Both leave the Transformer alone: no gradient reaches its weights or its activations.
"""

from __future__ import annotations

from typing import Literal, cast

import torch
from torch import Tensor
from torch.nn import functional

from memory_cores.attention.attention import Attention
from memory_cores.attention.block import TransformerBlock
from memory_cores.attention.patterns import Run, View
from memory_cores.compressive.compression import slot_mask

CompressionLoss = Literal["bptt", "auto_encoding", "attention_reconstruction"]


def attention_reconstruction(
    block: TransformerBlock, queries: Tensor, queries_kept: Tensor, old: Tensor, kept: Tensor, slots: Tensor
) -> Tensor:
    """|| attn(h, old) - attn(h, f_c(old)) ||_2 of the paper's algorithm 2, for one layer, averaged over the queries h.

    queries, old: (B, R, G, D), layer inputs without gradient: the queries for each of R blocks of the memory, and the
    steps of the block. queries_kept, kept: (B, R, G) bool, those that count. slots: (B, R, G / c, D), f_c(old). The
    layer's own content attention is used, with its norm and scale and without positions. 0 where nothing counts.
    """
    expected = content_attention(block, queries, old, kept)
    actual = content_attention(block, queries, slots, slot_mask(kept, kept.shape[2] // slots.shape[2]))
    return mean_length((actual - expected).to(old.dtype), queries_kept)


def content_attention(block: TransformerBlock, queries: Tensor, memory: Tensor, kept: Tensor) -> Tensor:
    """softmax(h Q (m K)^T) m V, (B, R, G, D), of h (B, R, G, D) and the steps of m (B, R, K, D) where kept (B, R, K).

    The weights of the layer are constants. Where no key counts, all have the same weight.
    """
    attention = cast(Attention, block.attention)
    if block.kind != "post":
        norm = block.attention_norm
        weight, bias = norm.weight.detach(), norm.bias.detach()
        queries, memory = (functional.layer_norm(x, norm.normalized_shape, weight, bias) for x in (queries, memory))
    weight = attention.qkv.weight.detach()
    query = functional.linear(queries, weight[: queries.shape[-1]])
    key, value = functional.linear(memory, weight[queries.shape[-1] :]).chunk(2, dim=-1)
    seen = kept | ~kept.any(dim=-1, keepdim=True)
    view = View(slice(0, queries.shape[2]), (Run(slice(0, memory.shape[2])),), seen.flatten(0, 1)[:, None])
    query, key, value = (attention.heads(x.flatten(0, 1)) for x in (query, key, value))
    return attention.contexts(query, key, value, [view]).view_as(queries)


def auto_encoding(decoded: Tensor, old: Tensor, kept: Tensor) -> Tensor:
    """|| old - g(f_c(old)) ||_2, averaged over the steps of old (..., D) where kept (...); 0 if there are none.

    decoded: (..., D), g(f_c(old)).
    """
    return mean_length(decoded.to(old.dtype) - old, kept)


def mean_length(difference: Tensor, kept: Tensor) -> Tensor:
    """The mean length, a scalar, of the vectors difference (..., D) where kept (...); 0 if there are none."""
    lengths: Tensor = torch.linalg.vector_norm(difference, dim=-1)
    return (lengths * kept).sum() / kept.sum().clamp(min=1)
