from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import memory_cores
from memory_cores.attention.block import TransformerBlock
from memory_cores.sparse.attention import Reach, SparseAttention
from memory_cores.sparse.core import Sparse
from tests.memory_cores.plain_bands import assert_causal, attend_to, plain_core, random_episodes, turned


def cells(head: int, stride: int, length: int) -> set[int]:
    """The places of a head's summary cells in a block, from the last ones of the block on."""
    turn = head % (stride // length)
    return set(range(stride - length * (turn + 1), stride - length * turn))


def is_seen(core: Sparse, attention: SparseAttention, head: int, reach: Reach, now: int, then: int) -> bool:
    """Section 4.3 of the paper, with times of the stream; what is older than the memory is forgotten."""
    stride, memory = attention.stride, core.schedule.memory_length
    if attention.pattern == "strided":
        near, far = now - then <= stride, (now - then) % stride == 0 and now - then <= memory
    else:
        near = now // stride == then // stride
        oldest = now // stride - memory // stride
        far = then % stride in cells(head, stride, attention.summary_length) and then // stride >= oldest
    return {"near": near, "far": far, "both": near or far}[reach] and then <= now


def plain_sparse(core: Sparse, x: Tensor, reset: Tensor) -> Tensor:
    def attend(block: TransformerBlock, x: Tensor, start: int) -> Tensor:
        attention = cast(SparseAttention, block.attention)
        query, key, value = attention.qkv(x).chunk(3, dim=-1)
        contexts = []
        for heads, reach in attention.reaches:
            for head in range(heads.start, heads.stop):
                of_head = slice(head * attention.head_width, (head + 1) * attention.head_width)
                q, k, v = turned(core, query[:, of_head]), turned(core, key[:, of_head]), value[:, of_head]
                seen = [
                    [j for j in range(t + 1) if is_seen(core, attention, head, reach, start + t, start + j)]
                    for t in range(len(x))
                ]
                contexts.append(torch.stack([attend_to(q[t], k[seen[t]], v[seen[t]]) for t in range(len(x))]))
        return torch.cat(contexts, dim=-1)

    return plain_core(core, x, reset, attend)


@given(
    pattern=st.sampled_from(["strided", "fixed"]),
    combination=st.sampled_from(["merged", "interleaved", "split"]),
    stride=st.integers(1, 5),
    count=st.integers(1, 3),
    summary_length=st.integers(1, 3),
    positions=st.sampled_from(["rotary", "none"]),
    seed=st.integers(0, 2**31),
)
def test_it_is_dense_attention_under_its_mask(
    pattern: str, combination: str, stride: int, count: int, summary_length: int, positions: str, seed: int
) -> None:
    core = memory_cores.build(
        "sparse",
        d_model=12,
        num_heads=3,
        d_ff=8,
        block="pre",
        pattern=pattern,
        combination=combination,
        stride=stride,
        memory_length=stride * count,
        summary_length=min(stride, summary_length),
        positions=positions,
    ).double()
    assert isinstance(core, Sparse)
    x, reset = random_episodes(core, 21, seed)
    with torch.no_grad():
        y = core(x, core.initial_state(2), reset).y
        torch.testing.assert_close(y, plain_sparse(core, x, reset), rtol=1e-9, atol=1e-9)


def test_heads_have_distinct_summary_cells_as_far_as_there_are_any() -> None:
    core = memory_cores.build("sparse", d_model=16, num_heads=4, pattern="fixed", stride=6, memory_length=6)
    attention = cast(SparseAttention, core.get_submodule("blocks.0.attention"))
    found = attention.cells(slice(0, 4), torch.device("cpu"))
    assert found.tolist() == [[4, 5], [2, 3], [0, 1], [4, 5]]


def test_initial_weights_are_the_papers() -> None:
    core = memory_cores.build("sparse", d_model=256, num_layers=8)
    weights = core.get_parameter("blocks.0.mlp.output.weight"), core.get_parameter("blocks.0.attention.qkv.weight")
    torch.testing.assert_close(weights[0].std() * 1024**0.5, torch.tensor(0.125 / 4), rtol=0.02, atol=0)
    torch.testing.assert_close(weights[1].std() * 256**0.5, torch.tensor(0.125), rtol=0.02, atol=0)


@pytest.mark.parametrize("options", [{"pattern": "strided"}, {"pattern": "fixed"}])
@pytest.mark.parametrize("resets", [0.0, 1.0])
def test_it_is_causal_where_all_inputs_are_equal(options: dict[str, Any], resets: float) -> None:
    core = memory_cores.build("sparse", d_model=8, num_heads=2, memory_length=4, stride=2, **options).double()
    assert isinstance(core, Sparse)
    assert_causal(core, torch.ones(1, 9, 8, dtype=torch.float64), torch.rand(1, 9) < resets)


def test_a_step_touches_the_cells_of_its_pattern_alone() -> None:
    core = memory_cores.build("sparse", d_model=8, num_heads=2, memory_length=64, stride=8, num_layers=1)
    stream = core.stream(1)
    for _ in range(70):
        stream.step(torch.randn(1, 8))
    touched = []
    attention = stream.blocks[0].attention  # type: ignore[attr-defined]
    select = attention.select
    attention.select = lambda seen: touched.append(select(seen)) or touched[-1]
    stream.step(torch.randn(1, 8))
    ((places, penalty),) = touched
    assert places.shape[-1] == 9 + 7
    assert len(places[0, 0].unique()) == 16
    assert not penalty.any()


def test_bad_options_are_reported_together() -> None:
    with pytest.raises(memory_cores.OptionsError) as raised:
        memory_cores.build(
            "sparse",
            d_model=16,
            num_heads=1,
            memory_length=4,
            stride=8,
            summary_length=9,
            pattern="fixed",
            combination="split",
            positions="relative",
        )
    assert raised.value.problems == [
        "positions is 'relative', expected one of rotary, none",
        "num_heads is 1, expected 2 or more for the combination split",
        "stride is 8, expected at most memory_length, 4",
        "summary_length is 9, expected at most stride, 8",
    ]
    with pytest.raises(memory_cores.OptionsError, match="memory_length is 9, expected a multiple of stride, 4"):
        memory_cores.build("sparse", d_model=16, memory_length=9, stride=4)
    with pytest.raises(memory_cores.OptionsError, match="stride is 0, expected an integer >= 1"):
        memory_cores.build("sparse", d_model=16, stride=0)
