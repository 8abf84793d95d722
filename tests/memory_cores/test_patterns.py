"""Attention over any pattern of keys against dense attention under the same mask, for all kinds of positions."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from torch import Tensor

from memory_cores.attention.attention import Attention
from memory_cores.attention.kv_cache import CachedAttention, KeyValueCache, RelativeCache, RotaryCache, StepView
from memory_cores.attention.patterns import Run, View
from memory_cores.attention.positions import Positions, RelativePositions, RotaryPositions, rotary_table, sinusoids
from tests.memory_cores.test_transformer_xl import plain_rotation

B, T, D, H, W = 2, 12, 8, 2, 4
MEMORY = 7
N = MEMORY + T
EXACT = {"rtol": 1e-9, "atol": 1e-9}
all_positions = pytest.mark.parametrize("kind", get_args(Positions))


def make(kind: Positions) -> tuple[Attention, RelativePositions | RotaryPositions | None]:
    """An attention in float64 and the positions of a call of T steps after MEMORY remembered ones."""
    torch.manual_seed(0)
    attention = Attention(D, H, 0.0, kind).double()
    if kind == "relative":
        table = sinusoids(torch.arange(N, -T, -1), D, torch.float64)
        biases = torch.randn(2, H, 1, W, dtype=torch.float64)
        return attention, RelativePositions(table, N, *biases)
    if kind == "rotary":
        cosine, sine = rotary_table(torch.arange(-MEMORY, T), W, torch.float64)
        return attention, RotaryPositions((cosine, sine), (cosine[MEMORY:], sine[MEMORY:]))
    return attention, None


def sample() -> tuple[Tensor, Tensor]:
    return torch.randn(B, T, D, dtype=torch.float64), torch.randn(B, MEMORY, D, dtype=torch.float64)


def dense(
    attention: Attention,
    positions: RelativePositions | RotaryPositions | None,
    x: Tensor,
    memory: Tensor,
    seen: Tensor,
) -> Tensor:
    """The equations, one query and key at a time; seen (H, B, T, N) says which keys count."""
    context = torch.cat([memory, x], dim=1)
    w_q, w_k, w_v = attention.qkv.weight.chunk(3)
    rows = []
    for row in range(B):
        steps = []
        for t in range(T):
            heads = []
            for head in range(H):
                part = slice(head * W, (head + 1) * W)
                query = w_q[part] @ x[row, t]
                keys = seen[head, row, t].nonzero().flatten().tolist()
                scores = []
                for j in keys:
                    key, distance = w_k[part] @ context[row, j], MEMORY + t - j
                    if isinstance(positions, RelativePositions):
                        angles = [distance / 10000 ** (2 * k / D) for k in range(D // 2)]
                        r = x.new_tensor([math.sin(a) for a in angles] + [math.cos(a) for a in angles])
                        at = attention.position.weight[part] @ r
                        u, v = positions.content_bias[head, 0], positions.position_bias[head, 0]
                        scores.append((query + u) @ key + (query + v) @ at)
                    elif isinstance(positions, RotaryPositions):
                        scores.append(plain_rotation(query, t) @ plain_rotation(key, j - MEMORY))
                    else:
                        scores.append(query @ key)
                weights = (torch.stack(scores) / math.sqrt(W)).softmax(dim=0)
                values = [w_v[part] @ context[row, j] for j in keys]
                heads.append(sum(w * v for w, v in zip(weights, values, strict=True)))
            steps.append(attention.output.weight @ torch.cat(heads))
        rows.append(torch.stack(steps))
    return torch.stack(rows)


def causal() -> Tensor:
    """(T, N) bool."""
    return torch.arange(N) <= MEMORY + torch.arange(T)[:, None]


@all_positions
def test_runs_of_a_sparse_pattern(kind: Positions) -> None:
    """A window of 4 steps and, before it, every third cell: two runs of different strides."""
    attention, positions = make(kind)
    x, memory = sample()
    views, seen = [], torch.zeros(T, N, dtype=torch.bool)
    for start, stop in ((0, 6), (6, 7), (7, T)):
        first = MEMORY + start - 3  # of the window
        cells = slice(first % 3, first, 3)
        window = slice(first, MEMORY + stop)
        keys = torch.tensor([*range(N)[cells], *range(N)[window]])
        query = MEMORY + torch.arange(start, stop)[:, None]
        mask = (keys <= query) & ((keys > query - 4) | (torch.arange(len(keys)) < len(range(N)[cells])))
        runs = Run(cells, MEMORY + start - range(N)[cells][-1], stride=3), Run(window, start - stop + 1)
        views.append(View(slice(start, stop), runs, mask.expand(B, -1, -1)))
        for s, t in enumerate(range(start, stop)):
            seen[t, keys[mask[s]]] = True
    actual = attention(x, memory, views, positions)
    torch.testing.assert_close(actual, dense(attention, positions, x, memory, seen.expand(H, B, -1, -1)), **EXACT)


@all_positions
def test_gathered_keys(kind: Positions) -> None:
    """Other keys for each head and row, drawn at random, as a router would choose them."""
    attention, positions = make(kind)
    x, memory = sample()
    views, seen = [], torch.zeros(H, B, T, N, dtype=torch.bool)
    for start, stop in ((0, 5), (5, T)):
        keys = torch.rand(H, B, N).argsort(dim=-1)[..., :9].sort(dim=-1).values
        keys[..., 0] = 0  # seen by all
        query = MEMORY + torch.arange(start, stop)[:, None]
        distances = query - keys[:, :, None]
        seen[:, :, start:stop].scatter_(3, keys[:, :, None].expand(-1, -1, stop - start, -1), distances >= 0)
        views.append(View(slice(start, stop), keys, distances >= 0, distances))
    actual = attention(x, memory, views, positions)
    torch.testing.assert_close(actual, dense(attention, positions, x, memory, seen), **EXACT)


@all_positions
def test_buckets(kind: Positions) -> None:
    """Queries and keys sorted by a bucket of their own for each head and row, as hashing and clusters make them."""
    attention, positions = make(kind)
    x, memory = sample()
    bucket = torch.randint(3, (H, B, N))
    seen = (bucket[:, :, MEMORY:, None] == bucket[:, :, None]) & causal()
    order = bucket.argsort(dim=-1, stable=True)
    queries = bucket[:, :, MEMORY:].argsort(dim=-1, stable=True)
    views = []
    for part in queries.split(5, dim=-1):
        distances = MEMORY + part[..., None] - order[:, :, None]
        of_queries = bucket.gather(2, MEMORY + part)[..., None]
        mask = (of_queries == bucket.gather(2, order)[:, :, None]) & (distances >= 0)
        views.append(View(part, order, mask, distances))
    actual = attention(x, memory, views, positions)
    torch.testing.assert_close(actual, dense(attention, positions, x, memory, seen), **EXACT)


@all_positions
@torch.no_grad()
def test_cached_steps_of_a_sparse_pattern(kind: Positions) -> None:
    """A step touches its own last 3 places and every fourth before them, and gives what the whole call does."""
    attention, positions = make(kind)
    x, memory = sample()
    if isinstance(positions, RelativePositions):
        biases = positions.content_bias, positions.position_bias
        cache: KeyValueCache = RelativeCache(attention, memory, N, biases, range(N))
    elif kind == "rotary":
        cache = RotaryCache(attention, memory, N, N)
    else:
        cache = KeyValueCache(attention, memory, N)
    cached = CachedAttention(attention, cache)
    seen = torch.zeros(T, N, dtype=torch.bool)
    outputs = []
    for t in range(T):
        place = MEMORY + t
        cells, window = slice((place - 2) % 4, place - 2, 4), slice(place - 2, place + 1)
        seen[t, cells] = seen[t, window] = True
        runs = Run(cells, place - range(N)[cells][-1], stride=4), Run(window)
        outputs.append(cached.attend(x[:, t], StepView(place, runs)) @ attention.output.weight.T)
    expected = dense(attention, positions, x, memory, seen.expand(H, B, -1, -1))
    torch.testing.assert_close(torch.stack(outputs, dim=1), expected, **EXACT)
