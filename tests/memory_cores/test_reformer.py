from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

import memory_cores
from memory_cores.attention.block import TransformerBlock
from memory_cores.reformer.attention import HashedAttention
from memory_cores.reformer.core import Reformer
from memory_cores.reformer.hashing import rotation
from tests.memory_cores.plain_bands import assert_causal, attend_to, plain_core, random_episodes, turned


def build(**options: Any) -> Reformer:
    core = memory_cores.build("reformer", **{"d_model": 12, "num_heads": 3, "d_ff": 8, "block": "pre"} | options)
    assert isinstance(core, Reformer)
    return core.double()


def plain_reformer(core: Reformer, x: Tensor, reset: Tensor, seed: int = 0) -> Tensor:
    memory = core.schedule.memory_length

    def attend(block: TransformerBlock, x: Tensor, start: int) -> Tensor:
        attention = cast(HashedAttention, block.attention)
        keys, values = attention.key_value(x).chunk(2, dim=-1)
        contexts = []
        for head in range(attention.num_heads):
            of_head = slice(head * attention.head_width, (head + 1) * attention.head_width)
            query, value = keys[:, of_head], values[:, of_head]
            unit = functional.normalize(query, dim=-1)
            buckets = []
            for turn in range(attention.num_hashes):
                if attention.num_buckets == 1:
                    buckets.append([0] * len(x))
                    continue
                sizes = attention.num_heads, attention.head_width, attention.num_buckets
                turns = unit @ rotation(seed, attention.layer, turn, *sizes)[head]
                buckets.append(torch.cat([turns, -turns], dim=-1).argmax(dim=-1).tolist())
            query, unit = turned(core, query), turned(core, unit)
            of_steps = []
            for t in range(len(x)):
                members: set[int] = set()
                for bucket in buckets:
                    found = [j for j in range(max(0, t - memory), t) if bucket[j] == bucket[t]]
                    members |= set(found[-attention.window :])
                seen = sorted(members) or [t]
                of_steps.append(attend_to(query[t], unit[seen], value[seen]))
            contexts.append(torch.stack(of_steps))
        return torch.cat(contexts, dim=-1)

    return plain_core(core, x, reset, attend)


@given(
    num_hashes=st.integers(1, 4),
    num_buckets=st.sampled_from([1, 2, 4, 6]),
    window=st.integers(1, 5),
    memory_length=st.integers(5, 12),
    positions=st.sampled_from(["rotary", "none"]),
    seed=st.integers(0, 2**31),
)
def test_a_step_sees_the_union_of_its_buckets(
    num_hashes: int, num_buckets: int, window: int, memory_length: int, positions: str, seed: int
) -> None:
    core = build(
        num_hashes=num_hashes,
        num_buckets=num_buckets,
        window=window,
        memory_length=memory_length,
        positions=positions,
        hash_seed=seed % 100,
    )
    x, reset = random_episodes(core, 23, seed)
    with torch.no_grad():
        y = core(x, core.initial_state(2), reset).y
        torch.testing.assert_close(y, plain_reformer(core, x, reset, seed % 100), rtol=1e-9, atol=1e-9)


def test_one_bucket_is_dense_attention_with_shared_queries_and_keys() -> None:
    core = build(num_hashes=2, num_buckets=1, window=16, memory_length=16, num_layers=1)
    x = torch.randn(1, 16, 12, dtype=torch.float64)
    reset = torch.zeros(1, 16, dtype=torch.bool)

    def attend(block: TransformerBlock, x: Tensor, start: int) -> Tensor:
        keys, values = cast(HashedAttention, block.attention).key_value(x).chunk(2, dim=-1)
        contexts = []
        for query, value in zip(keys.split(4, dim=-1), values.split(4, dim=-1), strict=True):
            scores = turned(core, query) @ turned(core, functional.normalize(query, dim=-1)).T / 2.0
            visible = torch.ones(16, 16, dtype=torch.bool).tril(-1)
            visible[0, 0] = True
            contexts.append(scores.masked_fill(~visible, -torch.inf).softmax(dim=-1) @ value)
        return torch.cat(contexts, dim=-1)

    with torch.no_grad():
        y = core(x, core.initial_state(1)).y
        torch.testing.assert_close(y, plain_core(core, x, reset, attend), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("resets", [0.0, 1.0])
@pytest.mark.parametrize("options", [{"num_buckets": 1, "window": 2}, {"num_buckets": 4, "window": 1}])
def test_it_is_causal_where_all_keys_are_equal_and_a_bucket_overflows(options: dict[str, Any], resets: float) -> None:
    core = build(memory_length=4, **options)
    assert_causal(core, torch.ones(1, 9, 12, dtype=torch.float64), torch.rand(1, 9) < resets)


def test_rows_may_have_rotations_of_their_own() -> None:
    core = build(num_hashes=2, num_buckets=4, window=3, memory_length=8)
    x = torch.randn(1, 20, 12, dtype=torch.float64).expand(2, -1, -1)
    state = core.initial_state(2)
    state["seed"] = torch.tensor([0, 7])
    stream = core.stream(2)
    stream.load(state)
    with torch.no_grad():
        y = core(x, state).y
        stepped = torch.stack([stream.step(x[:, t]) for t in range(20)], dim=1)
        for row, seed in enumerate((0, 7)):
            reset = torch.zeros(1, 20, dtype=torch.bool)
            torch.testing.assert_close(y[row : row + 1], plain_reformer(core, x[:1], reset, seed))
    torch.testing.assert_close(stepped, y)
    assert not torch.allclose(y[0], y[1])
    assert stream.state()["seed"].tolist() == [0, 7]


def test_more_rounds_keep_the_rotations_of_fewer() -> None:
    few, more = (rotation(3, 1, turn, 2, 4, 6) for turn in (0, 1))
    assert torch.equal(few, rotation(3, 1, 0, 2, 4, 6))
    assert not torch.equal(few, more)
    assert not torch.equal(few, rotation(4, 1, 0, 2, 4, 6))
    assert not torch.equal(few, rotation(3, 2, 0, 2, 4, 6))


def test_bad_options_are_reported_together() -> None:
    with pytest.raises(memory_cores.OptionsError) as raised:
        memory_cores.build(
            "reformer", d_model=16, memory_length=4, num_hashes=0, num_buckets=3, window=5, hash_seed=-1, dropout=1.0
        )
    assert raised.value.problems == [
        "dropout is 1.0, expected a number in [0, 1)",
        "num_hashes is 0, expected an integer >= 1",
        "hash_seed is -1, expected an integer >= 0",
        "num_buckets is 3, expected an even number, or 1 for no hashing",
        "window is 5, expected at most memory_length, 4",
    ]
