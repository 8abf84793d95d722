"""Attention to bands: each query sees a range of consecutive keys, and the range moves on with the queries.

A sliding window, the blocks and the folded columns of a sparse pattern, its summary cells, and the members of a cluster
or of a hash bucket sorted by time are all bands; they differ in the order of the keys and in the ranges. Scores are
computed for chunks of queries and computed again for the gradient, so memory grows with the number of queries and not
with the product of queries and keys.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

UNSEEN = -1e30
"""The log-sum-exp of a query that sees no key: finite, so that differences of two are no NaN."""
SCORES = {"cpu": 2**18, "cuda": 2**26}
"""Scores that are computed in one product: on a CPU few enough to stay in its cache."""


class Chunks(NamedTuple):
    """How queries and keys are cut: chunk i of the queries meets `width` keys from origin + i * advance on."""

    queries: int
    """Queries in a chunk."""
    origin: int
    """The first key that the first chunk meets; negative where that lies before the first key."""
    advance: int
    """Keys from the beginning of one chunk's keys to that of the next."""
    width: int
    """Keys that a chunk meets; they must include all that its queries see."""


class Others(NamedTuple):
    """Other orders of the same N keys, in which pairs of a query and a key were already attended to."""

    rank: Tensor
    """(orders, groups, N) int64, the place of each key in each other order."""
    first: Tensor
    """(orders, groups, S) int64, the first place that each query saw in that order."""
    last: Tensor
    """(orders, groups, S) int64, the last place that it saw."""


def window_chunks(num_queries: int, num_keys: int, window: int) -> Chunks:
    """The chunks for queries that are the last of the keys and see at most `window` keys before their own."""
    queries = max(1, min(num_queries, max(32, min(window, 128))))
    return Chunks(queries, num_keys - num_queries - window, queries, window + queries)


def band_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    first: Tensor,
    last: Tensor,
    chunks: Chunks,
    others: Others | None = None,
) -> tuple[Tensor, Tensor]:
    """The attended values (groups, S, W) of each query's keys first ... last, and the log-sum-exp (groups, S) of its
    scores.

    query: (groups, S, W), scaled. key, value: (groups, N, W). first, last: (groups, S) int64; a query that sees
    nothing, with first > last, gets zeros and UNSEEN. others: a key that a query saw in one of these orders is not seen
    again. Two disjoint parts of a query's keys are joined by `join`.
    """
    result: tuple[Tensor, Tensor] = _BandAttention.apply(query, key, value, first, last, chunks, others)
    return result


def join(contexts: Tensor, log_sums: Tensor) -> Tensor:
    """The attended values (..., W) of the union of disjoint sets of keys, from those of each.

    contexts: (sets, ..., W). log_sums: (sets, ...), the log-sum-exp of each set's scores (Kitaev et al., 2001.04451,
    appendix A).
    """
    weights = log_sums.softmax(dim=0)[..., None].to(contexts.dtype)
    return (weights * contexts).sum(dim=0)


class _Tile(NamedTuple):
    """Some chunks of some groups, and which of their keys each query sees."""

    groups: slice
    chunks: slice
    penalty: Tensor
    """(n, queries, width), 0 where a query sees a key, and UNSEEN or less elsewhere."""


class _BandAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        first: Tensor,
        last: Tensor,
        chunks: Chunks,
        others: Others | None,
    ) -> tuple[Tensor, Tensor]:
        context, log_sum = torch.empty_like(query), _accumulator(query, query.shape[:2])
        with torch.autocast(query.device.type, enabled=False):
            queries, keys, values = _Queries(query, chunks), _Keys(key, chunks, query), _Keys(value, chunks, query)
            contexts, log_sums = _Queries(context, chunks, fill=False), _Queries(log_sum[..., None], chunks, fill=False)
            for tile in _tiles(query, first, last, chunks, others):
                scores = torch.bmm(queries.of(tile), keys.of(tile).transpose(1, 2)).to(log_sum.dtype)
                scores += tile.penalty
                highest = scores.amax(dim=-1, keepdim=True)
                weights = scores.softmax(dim=-1)
                contexts.put(tile, torch.bmm(weights.to(value.dtype), values.of(tile)))
                log_sums.put(tile, highest - weights.amax(dim=-1, keepdim=True).log())
        context, log_sum = contexts.whole(), log_sums.whole()[..., 0]
        sees_none = log_sum <= UNSEEN / 2
        context.masked_fill_(sees_none[..., None], 0.0)
        log_sum.masked_fill_(sees_none, UNSEEN)
        ctx.chunks, ctx.others = chunks, others
        ctx.save_for_backward(query, key, value, first, last, context, sees_none)
        return context, log_sum

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, first, last, context, sees_none = ctx.saved_tensors
        chunks, (d_context, d_log_sum) = ctx.chunks, gradients
        dtype = d_log_sum.dtype
        offset = (d_context * context).sum(dim=-1, dtype=dtype) - d_log_sum
        d_context, offset = d_context.masked_fill(sees_none[..., None], 0.0), offset.masked_fill(sees_none, 0.0)
        with torch.autocast(query.device.type, enabled=False):
            queries, keys, values = _Queries(query, chunks), _Keys(key, chunks, query), _Keys(value, chunks, query)
            d_contexts, offsets = _Queries(d_context, chunks), _Queries(offset[..., None], chunks)
            d_query = _Queries(torch.empty_like(query), chunks, fill=False)
            d_key, d_value = _KeyGradients(keys, dtype), _KeyGradients(values, dtype)
            for tile in _tiles(query, first, last, chunks, ctx.others):
                asking, seen, d_attended = queries.of(tile), keys.of(tile), d_contexts.of(tile)
                scores = torch.bmm(asking, seen.transpose(1, 2)).to(dtype)
                weights = scores.add_(tile.penalty).softmax(dim=-1)
                d_value.add(tile, torch.bmm(weights.to(value.dtype).transpose(1, 2), d_attended))
                d_weights = torch.bmm(d_attended, values.of(tile).transpose(1, 2)).to(dtype)
                d_scores = d_weights.sub_(offsets.of(tile)).mul_(weights).to(query.dtype)
                d_query.put(tile, torch.bmm(d_scores, seen))
                d_key.add(tile, torch.bmm(d_scores.transpose(1, 2), asking))
        return d_query.whole(), d_key.whole(), d_value.whole(), None, None, None, None


def _accumulator(like: Tensor, shape: torch.Size) -> Tensor:
    """A new tensor in which scores are summed: of float32 at least."""
    return like.new_empty(shape, dtype=torch.promote_types(like.dtype, torch.float32))


def _num_chunks(num_queries: int, chunks: Chunks) -> int:
    return -(-num_queries // chunks.queries)


class _Queries:
    """Tensors (groups, S, ...) of queries by chunks, padded to whole ones."""

    def __init__(self, x: Tensor, chunks: Chunks, fill: bool = True) -> None:
        """fill: False for a tensor that is to be written."""
        self.count = x.shape[1]
        padding = _num_chunks(self.count, chunks) * chunks.queries - self.count
        if padding:
            x = (
                functional.pad(x, (0, 0, 0, padding))
                if fill
                else x.new_empty(x.shape[0], self.count + padding, x.shape[2])
            )
        self.chunked = torch.unflatten(x, 1, (-1, chunks.queries))

    def of(self, tile: _Tile) -> Tensor:
        """(n, queries, ...)."""
        return self.chunked[tile.groups, tile.chunks].flatten(0, 1)

    def put(self, tile: _Tile, part: Tensor) -> None:
        """Write (n, queries, ...)."""
        target = self.chunked[tile.groups, tile.chunks]
        target.copy_(part.view(target.shape))

    def whole(self) -> Tensor:
        """(groups, S, ...)."""
        return self.chunked.flatten(1, 2)[:, : self.count].contiguous()


class _Keys:
    """Tensors (groups, N, ...) of keys by the chunks that meet them, which overlap."""

    def __init__(self, x: Tensor, chunks: Chunks, query: Tensor) -> None:
        count = _num_chunks(query.shape[1], chunks)
        stop = chunks.origin + (count - 1) * chunks.advance + chunks.width
        self.chunks, self.count, self.like = chunks, count, x
        self.padding = (-chunks.origin, stop - x.shape[1])
        padded = functional.pad(x, (0, 0, *self.padding)).contiguous()
        groups, length, width = padded.shape
        self.chunked = padded.as_strided(
            (groups, count, chunks.width, width), (length * width, chunks.advance * width, width, 1)
        )

    def of(self, tile: _Tile) -> Tensor:
        """(n, width, ...)."""
        return self.chunked[tile.groups, tile.chunks].reshape(-1, *self.chunked.shape[2:])


class _KeyGradients:
    """Sums the gradients of keys over the chunks that meet them."""

    def __init__(self, keys: _Keys, dtype: torch.dtype) -> None:
        self.keys = keys
        groups, count, width, features = keys.chunked.shape
        self.advance = keys.chunks.advance
        self.parts = -(-width // self.advance)
        self.sums = keys.like.new_zeros(groups, count + self.parts - 1, self.advance, features, dtype=dtype)

    def add(self, tile: _Tile, gradient: Tensor) -> None:
        """Add (n, width, W)."""
        span = self.sums[tile.groups].shape[0]
        of_chunks = gradient.view(span, -1, *gradient.shape[1:])
        for part in range(self.parts):
            piece = of_chunks[:, :, part * self.advance : (part + 1) * self.advance]
            target = self.sums[tile.groups, tile.chunks.start + part : tile.chunks.stop + part, : piece.shape[2]]
            target.add_(piece)

    def whole(self) -> Tensor:
        """(groups, N, W)."""
        before, _ = self.keys.padding
        flat = self.sums.flatten(1, 2)
        count = self.keys.like.shape[1]
        missing = count + before - flat.shape[1]
        whole = functional.pad(flat, (0, 0, -before, missing))
        return whole.to(self.keys.like.dtype)


def _tiles(query: Tensor, first: Tensor, last: Tensor, chunks: Chunks, others: Others | None) -> Iterator[_Tile]:
    """The chunks of all groups, in portions of about SCORES scores.

    Ranges are compared by arithmetic in the scores' dtype, which is several times as fast as by booleans.
    """
    groups, count = query.shape[0], _num_chunks(query.shape[1], chunks)
    base = (chunks.origin + chunks.advance * torch.arange(count, device=query.device))[:, None, None]
    dtype = torch.promote_types(query.dtype, torch.float32)
    place = torch.arange(chunks.width, device=query.device, dtype=dtype)
    first, last = (
        (_Queries(bound[..., None], chunks).chunked - base).clamp(-1, chunks.width).to(dtype) for bound in (first, last)
    )  # (groups, chunks, queries, 1)
    seen_before = [] if others is None else list(zip(*(tensor.to(dtype) for tensor in others), strict=True))
    ranges = [
        (
            _Keys(rank[..., None], chunks, query).chunked.transpose(2, 3),
            _Queries(lower[..., None], chunks).chunked,
            _Queries(upper[..., None], chunks).chunked,
        )
        for rank, lower, upper in seen_before
    ]
    per_tile = max(1, SCORES.get(query.device.type, SCORES["cuda"]) // (chunks.queries * chunks.width))
    groups_at_once = max(1, per_tile // count)
    for group in range(0, groups, groups_at_once):
        some_groups = slice(group, min(group + groups_at_once, groups))
        for chunk in range(0, count, per_tile):
            some = some_groups, slice(chunk, min(chunk + per_tile, count))
            outside = _depth(place, first[some], last[some]).clamp_(max=0.0)
            for rank, lower, upper in ranges:
                outside -= _depth(rank[some], lower[some], upper[some]).add_(1.0).clamp_(min=0.0)
            yield _Tile(*some, outside.mul_(-UNSEEN).flatten(0, 1))


def _depth(place: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """How far places lie within a range: 0 at its first and last place, negative outside."""
    return torch.minimum(place - first, last - place)
