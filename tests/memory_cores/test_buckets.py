"""Attention in buckets: against loops over queries and keys, and where it must be."""

from __future__ import annotations

import pytest
import torch

import memory_cores
from memory_cores.attention.base import MemoryTransformer
from memory_cores.attention.buckets import BUCKETS, attention_buckets

CORES = {
    "paper": ("compressive", {"memory_length": 8, "compressed_length": 6, "compression_rate": 2, "granularity": 8}),
    "most used": (
        "compressive",
        {"memory_length": 6, "compressed_length": 3, "compression_rate": 2, "granularity": 4}
        | {"compression": "most_used", "positions": "rotary"},
    ),
    "uneven": ("compressive", {"memory_length": 5, "compressed_length": 4, "compression_rate": 3, "granularity": 6}),
    "no slots": ("transformer_xl", {"memory_length": 7, "granularity": 5, "positions": "rotary"}),
}


def build(name: str) -> MemoryTransformer:
    torch.manual_seed(0)
    core, options = CORES[name]
    built = memory_cores.build(core, d_model=8, num_heads=2, num_layers=2, **options).double().eval()
    assert isinstance(built, MemoryTransformer)
    return built


@pytest.mark.parametrize("name", CORES)
def test_equal_attention_falls_in_buckets_by_the_number_of_keys(name: str) -> None:
    """With all scores equal a share is the share of keys, which a loop over queries counts."""
    core = build(name)
    with torch.no_grad():
        for parameter in core.parameters():
            parameter.zero_()
    schedule = core.schedule
    g, turns = schedule.granularity, 12
    shares, full = attention_buckets(core, torch.randn(2, g * turns, 8).double(), torch.zeros(2, g * turns).bool())
    assert full
    expected = torch.zeros(3 * BUCKETS, dtype=torch.float64)
    for phase in range(g):
        context = schedule.memory_length + (phase - schedule.memory_length) % g
        memory = context - phase
        keys = schedule.compressed_length + context + 1
        for slot in range(schedule.compressed_length):
            expected[BUCKETS * slot // schedule.compressed_length] += 1 / keys
        for step in range(memory):
            expected[BUCKETS + BUCKETS * step // memory] += 1 / keys
        for step in range(phase + 1):
            expected[2 * BUCKETS + BUCKETS * step // g] += 1 / keys
    torch.testing.assert_close(shares, (expected / g).float().expand_as(shares))


@pytest.mark.parametrize("name", CORES)
def test_watching_changes_nothing_and_leaves_nothing(name: str) -> None:
    core = build(name)
    x, reset = torch.randn(3, 24, 8).double(), torch.rand(3, 24) < 0.1
    before = core(x, core.initial_state(3), reset)
    shares, _ = attention_buckets(core, x, reset)
    after = core(x, core.initial_state(3), reset)
    torch.testing.assert_close(after.y, before.y, rtol=0, atol=0)
    torch.testing.assert_close(shares.sum(dim=-1), torch.ones(shares.shape[:2]))
    assert not any(block.attention._forward_pre_hooks for block in core.blocks)  # type: ignore[union-attr]


def test_young_streams_count_only_where_no_memory_is_full() -> None:
    core = build("paper")
    x = torch.randn(1, 16, 8).double()
    shares, full = attention_buckets(core, x, torch.zeros(1, 16).bool())
    assert not full
    assert len(shares) == 2
    assert (shares[0, :, : 2 * BUCKETS] == 0).all()  # the first turn remembers nothing


def test_less_than_a_turn_is_refused() -> None:
    with pytest.raises(ValueError, match="x has 7 steps, expected at least one turn of 8"):
        attention_buckets(build("paper"), torch.zeros(1, 7, 8).double(), torch.zeros(1, 7).bool())
