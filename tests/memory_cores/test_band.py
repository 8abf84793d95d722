from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from memory_cores.attention import band
from memory_cores.attention.band import UNSEEN, Chunks, Others, band_attention, join, window_chunks


def dense(query: Tensor, key: Tensor, value: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
    scores = (query @ key.transpose(1, 2)).masked_fill(~visible, UNSEEN)
    sees = visible.any(dim=-1)
    context = (scores.softmax(dim=-1) * visible) @ value
    return context, scores.logsumexp(dim=-1).where(sees, torch.tensor(UNSEEN, dtype=scores.dtype))


def draw(groups: int, queries: int, keys: int, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(groups, count, 4, generator=generator, dtype=torch.float64, requires_grad=True)
        for count in (queries, keys, keys)
    ]


@given(
    queries=st.integers(1, 90),
    before=st.integers(0, 20),
    window=st.integers(0, 50),
    nearest=st.integers(0, 3),
    scores=st.sampled_from([1, 300, 2**18]),
    seed=st.integers(0, 2**31),
)
def test_a_band_is_dense_attention_under_its_mask(
    queries: int, before: int, window: int, nearest: int, scores: int, seed: int
) -> None:
    query, key, value = draw(2, queries, queries + before, seed)
    own = torch.arange(before, before + queries).expand(2, -1)
    first = (own - torch.randint(0, window + 1, own.shape)).clamp(min=0)
    last = own - nearest  # of those near the beginning some see nothing
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(band.SCORES, "cpu", scores)
        outputs = band_attention(query, key, value, first, last, window_chunks(queries, queries + before, window))
        place = torch.arange(queries + before)
        visible = (place >= first[..., None]) & (place <= last[..., None])
        expected = dense(query, key, value, visible)
        weights = [torch.randn_like(output) for output in outputs]
        weights[1] *= first <= last  # the log-sum-exp of nothing is a constant
        gradients = [
            torch.autograd.grad(sum((w * o).sum() for w, o in zip(weights, both, strict=True)), (query, key, value))
            for both in (outputs, expected)
        ]
    for actual, wanted in zip((*outputs, *gradients[0]), (*expected, *gradients[1]), strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-9, atol=1e-9)


def test_keys_may_move_on_slower_than_queries() -> None:
    query, key, value = draw(3, 12, 8, seed=1)
    first = torch.tensor([0, 0, 0, 0, 2, 2, 2, 2, 4, 4, 4, 4]).expand(3, -1)  # two of three cells of a block of 4
    last = first + 3
    outputs = band_attention(query, key, value, first, last, Chunks(queries=4, origin=0, advance=2, width=4))
    place = torch.arange(8)
    visible = (place >= first[..., None]) & (place <= last[..., None])
    torch.testing.assert_close(outputs, dense(query, key, value, visible))


def test_what_another_order_has_shown_is_not_seen_again() -> None:
    query, key, value = draw(1, 9, 9, seed=2)
    own = torch.arange(9)[None]
    first, last = torch.zeros_like(own), own
    order = torch.randperm(9)[None]
    rank = order.argsort(dim=-1)
    seen_before = Others(rank[None], (rank - 2)[None], rank[None])  # the two before it in that order, and itself
    chunks = window_chunks(9, 9, 9)
    context, log_sum = band_attention(query, key, value, first, last, chunks, seen_before)
    place = torch.arange(9)
    is_repeated = (rank[:, None, :] >= rank[..., None] - 2) & (rank[:, None, :] <= rank[..., None])
    visible = (place <= own[..., None]) & ~is_repeated
    expected = dense(query, key, value, visible)
    torch.testing.assert_close((context, log_sum), expected)
    # The two disjoint sets together are all that either sees.
    rest = dense(query, key, value, is_repeated)
    union = dense(query, key, value, visible | is_repeated)[0]
    both = join(torch.stack([context, rest[0]]), torch.stack([log_sum, rest[1]]))
    torch.testing.assert_close(both, union)
