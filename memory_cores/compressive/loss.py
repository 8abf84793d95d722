"""Losses that train the compression of a Compressive Transformer (Rae et al., 1911.05507, section 3.2).

Both leave the Transformer alone: no gradient reaches its weights or its activations.
"""

from __future__ import annotations

from typing import Literal, cast

import torch
from torch import Tensor
from torch.nn import functional

from memory_cores.attention.attention import MemoryAttention
from memory_cores.attention.block import TransformerBlock
from memory_cores.compressive.compression import slots_kept

CompressionLoss = Literal["bptt", "auto_encoding", "attention_reconstruction"]


def attention_reconstruction(
    block: TransformerBlock, queries: Tensor, queries_kept: Tensor, old: Tensor, kept: Tensor, slots: Tensor
) -> Tensor:
    """|| attn(h, old) - attn(h, f_c(old)) ||_2 of the paper's algorithm 2, for one layer, its mean over queries h.

    queries, old: (B, N, G, D), layer inputs without gradient: for each of N blocks of the memory its steps and the
    steps that ask. queries_kept, kept: (B, N, G) bool, those that count. slots: (B, N, G / c, D), f_c(old). The
    layer's own content attention is used, with its norm and scale and without positions; 0 where nothing counts.
    """
    expected = content_attention(block, queries, old, kept)
    actual = content_attention(block, queries, slots, slots_kept(kept, kept.shape[2] // slots.shape[2]))
    return kept_mean((actual - expected).to(old.dtype), queries_kept)


def content_attention(block: TransformerBlock, queries: Tensor, memory: Tensor, kept: Tensor) -> Tensor:
    """softmax(h Q (m K)^T) m V (..., G, D) of h (..., G, D) and m (..., K, D), of which kept (..., K) count.

    The weights of the layer are constants.
    """
    attention = cast(MemoryAttention, block.attention)
    if block.norm != "post":
        norm = block.attention_norm
        weight, bias = norm.weight.detach(), norm.bias.detach()
        queries = functional.layer_norm(queries, norm.normalized_shape, weight, bias, norm.eps)
        memory = functional.layer_norm(memory, norm.normalized_shape, weight, bias, norm.eps)
    query_weight, key_weight, value_weight = attention.qkv.weight.detach().chunk(3)
    query = attention.heads(functional.linear(queries, query_weight))
    key = attention.heads(functional.linear(memory, key_weight))
    value = attention.heads(functional.linear(memory, value_weight))
    scores = (query * attention.scale) @ key.transpose(-1, -2)
    # A finite penalty, since in a block of which nothing is kept every key is masked.
    weights = scores.masked_fill(~kept[..., None, None, :], torch.finfo(scores.dtype).min).softmax(dim=-1)
    attended: Tensor = weights @ value
    return attended.transpose(-3, -2).flatten(-2)


def auto_encoding(decoded: Tensor, old: Tensor, kept: Tensor) -> Tensor:
    """|| old - g(f_c(old)) ||_2, its mean over the steps of old (..., D) that kept (...) counts; 0 where none is.

    decoded: (..., D), g(f_c(old)).
    """
    return kept_mean(decoded.to(old.dtype) - old, kept)


def kept_mean(difference: Tensor, kept: Tensor) -> Tensor:
    """The mean length of the vectors difference (..., D) that kept (...) counts, 0 where none is."""
    lengths: Tensor = torch.linalg.vector_norm(difference, dim=-1)
    return (lengths * kept).sum() / kept.sum().clamp(min=1)
