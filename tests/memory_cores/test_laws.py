"""The seven laws of `memory_cores.testing` on every registered core, over cases that hypothesis draws.

A new core gets all laws by being registered; give it a line in OPTIONS for each option that changes its computation.
Each law is held on each core in 12 cases, in float32 or float64 as drawn; `pytest --hypothesis-profile=thorough` draws
400.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import memory_cores
from memory_cores import MemoryCore
from memory_cores.testing import LAWS, Case, gradients_are_exact, randomise

D_MODEL = 8
OPTIONS: dict[str, list[dict[str, object]]] = {
    "compressive": [
        {"num_layers": 2, "num_heads": 2, "d_ff": 12, **options}
        for options in (
            {"memory_length": 5, "compressed_length": 2, "compression_rate": 2},
            {"memory_length": 5, "compressed_length": 3, "compression_rate": 2, "granularity": 4}
            | {"compression": "dilated_conv", "compression_loss": "auto_encoding", "block": "trxl_i"},
            {"memory_length": 1, "compressed_length": 3, "compression_rate": 2, "granularity": 2}
            | {"compression_loss": "bptt", "block": "post"},
            {"memory_length": 2, "compressed_length": 2, "compression_rate": 3, "granularity": 3}
            | {"compression": "mean", "positions": "rotary"},
            {"memory_length": 0, "compressed_length": 5, "compression_rate": 1, "granularity": 2}
            | {"compression": "max", "block": "post"},
            {"memory_length": 2, "compressed_length": 3, "compression_rate": 2, "granularity": 4}
            | {"compression": "most_used", "block": "trxl_i"},
            {"memory_length": 3, "compressed_length": 1, "compression_rate": 2, "granularity": 4}
            | {"compression": "most_used", "positions": "rotary"},
        )
    ],
    "evolved": [
        {"num_layers": 1, "num_heads": 2, "d_ff": 6, **options}
        for options in (
            {"memory_length": 3, "granularity": 4, "num_layers": 2},
            {"memory_length": 4, "positions": "rotary"},
            {"memory_length": 2, "granularity": 2, "positions": "none"},
        )
    ],
    "feedforward": [{}, {"num_layers": 2, "d_ff": 6}],
    "infinity": [
        {"num_heads": 2, "d_ff": 12, "num_basis": 8, "num_samples": 8, "wide_width": 0.2, **options}
        for options in (
            {"num_layers": 1, "memory_length": 3, "granularity": 2, "tau": 0.5, "ridge": 0.1},
            {"num_layers": 2, "memory_length": 2, "granularity": 3, "block": "post", "mask": True, "mu0": 0.5},
            {"num_layers": 1, "memory_length": 1, "granularity": 3, "block": "trxl_i", "positions": "rotary"}
            | {"sticky": True, "mask": True},
        )
    ],
    "lstm": [
        {},
        {"num_layers": 2, "max_dependency": 20},
        {"halting": "graves", "max_ponder_steps": 3, "halting_bias": -0.5},
        {"halting": "tensor2tensor", "num_layers": 2, "max_ponder_steps": 4, "halting_epsilon": 0.3},
    ],
    "reformer": [
        {"num_layers": 2, "num_heads": 2, "d_ff": 12, **options}
        for options in (
            {"memory_length": 6, "num_hashes": 2, "num_buckets": 2, "window": 3},
            {"memory_length": 5, "num_hashes": 3, "num_buckets": 4, "window": 2, "positions": "none", "block": "post"},
            {"memory_length": 4, "num_hashes": 1, "num_buckets": 1, "window": 4, "block": "pre"}
            | {"reversible": True, "mlp_chunk_length": 2},
        )
    ],
    "routing": [
        {"num_layers": 2, "num_heads": 2, "d_ff": 12, "local_heads": 1, **options}
        for options in (
            {"memory_length": 6, "num_clusters": 2, "window": 3, "local_window": 2},
            {"memory_length": 5, "num_clusters": 3, "window": 2, "local_heads": 0, "positions": "none"}
            | {"local_window": 1, "block": "trxl_i"},
            {"memory_length": 4, "num_clusters": 1, "window": 4, "local_window": 4, "block": "pre"}
            | {"reversible": True},
        )
    ],
    "sparse": [
        {"num_layers": 2, "num_heads": 2, "d_ff": 12, **options}
        for options in (
            {"memory_length": 6, "stride": 2},
            {"memory_length": 6, "stride": 3, "combination": "interleaved", "positions": "none", "block": "post"},
            {"memory_length": 4, "stride": 4, "combination": "split", "block": "pre"},
            {"pattern": "fixed", "memory_length": 6, "stride": 3, "summary_length": 1, "block": "trxl_i"}
            | {"reversible": True},
            {"pattern": "fixed", "memory_length": 8, "stride": 4, "combination": "interleaved"},
            {"pattern": "fixed", "memory_length": 4, "stride": 2, "combination": "split", "summary_length": 1}
            | {"positions": "none", "block": "pre"},
        )
    ],
    "transformer_xl": [
        {"num_layers": 2, "num_heads": 2, "d_ff": 12, "block": block, "positions": positions, **memory}
        for block, positions, memory in (
            ("gtrxl", "relative", {"memory_length": 4, "granularity": 1}),
            ("gtrxl", "rotary", {"memory_length": 5, "granularity": 3}),
            ("trxl_i", "relative", {"memory_length": 3, "granularity": 4}),
            ("trxl_i", "rotary", {"memory_length": 3, "granularity": 1, "final_norm": True}),
            ("pre", "relative", {"memory_length": 2, "granularity": 3, "reversible": True}),
            ("post", "relative", {"memory_length": 4, "granularity": 2}),
            ("post", "rotary", {"memory_length": 0, "granularity": 3, "mlp_chunk_length": 2}),
            ("post", "none", {"memory_length": 0, "granularity": 1}),
        )
    ],
    "universal": [
        {"num_heads": 2, "d_ff": 6, "max_ponder_steps": 3, **options}
        for options in (
            {"memory_length": 4, "halting_bias": 0.0},
            {"memory_length": 3, "granularity": 4, "block": "post", "transition": "convolution", "halting_bias": -0.5}
            | {"positions": "rotary", "depth_signal": "learned"},
            {
                "memory_length": 2,
                "granularity": 2,
                "block": "trxl_i",
                "transition": "convolution",
                "convolution_width": 4,
            }
            | {"halting": "tensor2tensor", "halting_epsilon": 0.3, "max_ponder_steps": 2},
            {
                "memory_length": 0,
                "block": "post",
                "transition": "convolution",
                "halting": "none",
                "max_ponder_steps": 2,
            },
        )
    ],
    "wavenet": [
        {"num_blocks": 2, "layers_per_block": 3},
        {"layers_per_block": 2, "kernel_size": 3, "d_skip": 5},
        {"layers_per_block": 1, "kernel_size": 4},
    ],
}

cases = st.builds(
    Case,
    seed=st.integers(0, 2**32),
    batch=st.integers(1, 3),
    past=st.integers(0, 12),
    lengths=st.lists(st.integers(1, 8), min_size=1, max_size=4).map(tuple),
    reset_rate=st.sampled_from([0.0, 0.1, 0.4, 1.0]),
)

EXAMPLES = 12 if settings().max_examples == settings.get_profile("quick").max_examples else 400
VARIANTS = [(name, i) for name in memory_cores.names() for i in range(len(OPTIONS.get(name, [{}])))]
each_core = pytest.mark.parametrize(("name", "variant"), VARIANTS)


@functools.cache
def core_for(name: str, variant: int, dtype: torch.dtype) -> MemoryCore:
    torch.manual_seed(0)
    core = memory_cores.build(name, d_model=D_MODEL, **OPTIONS.get(name, [{}])[variant]).to(dtype)
    randomise(core, seed=1)
    return core


@each_core
@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
@settings(max_examples=EXAMPLES)
@given(case=cases, dtype=st.sampled_from([torch.float64, torch.float32]))
def test_law(law: Callable[[MemoryCore, Case], None], name: str, variant: int, dtype: torch.dtype, case: Case) -> None:
    law(core_for(name, variant, dtype), case)


@each_core
def test_gradients_are_exact(name: str, variant: int) -> None:
    gradients_are_exact(core_for(name, variant, torch.float64))


def test_options_are_of_registered_cores() -> None:
    assert set(OPTIONS) <= set(memory_cores.names())
