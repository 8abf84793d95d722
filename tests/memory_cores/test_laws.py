"""The seven laws of a memory core, run on every registered core.

A law is a function of a core and a drawn `Case` and fails by AssertionError, so it can also be run on cores
that are not registered. A new core gets all laws by being registered; give it a line in OPTIONS for each
option that changes its computation. `pytest --hypothesis-profile=thorough` draws 200 cases for each.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import memory_cores
from memory_cores import MemoryCore, State

D_MODEL = 8
OPTIONS: dict[str, list[dict[str, object]]] = {
    "compressive": [
        {"num_layers": 2, "num_heads": 2, "d_ff": 12, **options}
        for options in (
            {"memory_length": 5, "compressed_length": 2, "compression_rate": 2},
            {"memory_length": 5, "compressed_length": 3, "compression_rate": 2, "granularity": 4}
            | {"compression": "dilated_conv", "compression_loss": "auto_encoding", "norm": "pre"},
            {"memory_length": 1, "compressed_length": 3, "compression_rate": 2, "granularity": 2}
            | {"compression_loss": "bptt", "norm": "post"},
            {"memory_length": 2, "compressed_length": 2, "compression_rate": 3, "granularity": 3}
            | {"compression": "mean", "positions": "rotary"},
            {"memory_length": 0, "compressed_length": 5, "compression_rate": 1, "granularity": 2}
            | {"compression": "max", "norm": "post"},
            {"memory_length": 2, "compressed_length": 3, "compression_rate": 2, "granularity": 4}
            | {"compression": "most_used", "norm": "pre"},
            {"memory_length": 3, "compressed_length": 1, "compression_rate": 2, "granularity": 4}
            | {"compression": "most_used", "positions": "rotary"},
        )
    ],
    "feedforward": [{}, {"num_layers": 2, "d_ff": 6}],
    "infinity": [
        {"num_heads": 2, "d_ff": 12, "num_basis": 8, "num_samples": 8, "wide_width": 0.2, **options}
        for options in (
            {"num_layers": 1, "memory_length": 3, "granularity": 2, "tau": 0.5, "ridge": 0.1},
            {"num_layers": 2, "memory_length": 2, "granularity": 3, "norm": "post", "mask": True, "mu0": 0.5},
            {"num_layers": 1, "memory_length": 1, "granularity": 3, "norm": "pre", "positions": "rotary"}
            | {"sticky": True, "mask": True},
        )
    ],
    "lstm": [
        {},
        {"num_layers": 2, "max_dependency": 20},
        {"halting": "graves", "max_ponder_steps": 3, "halting_bias": -0.5},
        {"halting": "tensor2tensor", "num_layers": 2, "max_ponder_steps": 4, "halting_epsilon": 0.3},
    ],
    "transformer_xl": [
        {"num_layers": 2, "num_heads": 2, "d_ff": 12, "norm": norm, "positions": positions, **memory}
        for norm, positions, memory in (
            ("gru", "relative", {"memory_length": 4, "granularity": 1}),
            ("gru", "rotary", {"memory_length": 5, "granularity": 3}),
            ("pre", "relative", {"memory_length": 3, "granularity": 4}),
            ("pre", "rotary", {"memory_length": 3, "granularity": 1}),
            ("post", "relative", {"memory_length": 4, "granularity": 2}),
            ("post", "rotary", {"memory_length": 0, "granularity": 3}),
            ("post", "relative", {"memory_length": 0, "granularity": 1}),
        )
    ],
    "universal": [
        {"num_heads": 2, "d_ff": 6, "max_ponder_steps": 3, **options}
        for options in (
            {"memory_length": 4, "halting_bias": 0.0},
            {"memory_length": 3, "granularity": 4, "norm": "post", "transition": "convolution", "halting_bias": -0.5}
            | {"positions": "rotary", "depth_signal": "learned"},
            {"memory_length": 2, "granularity": 2, "norm": "pre", "transition": "convolution", "convolution_width": 4}
            | {"halting": "tensor2tensor", "halting_epsilon": 0.3, "max_ponder_steps": 2},
            {"memory_length": 0, "norm": "post", "transition": "convolution", "halting": "none", "max_ponder_steps": 2},
        )
    ],
    "wavenet": [
        {"num_blocks": 2, "layers_per_block": 3},
        {"layers_per_block": 2, "kernel_size": 3, "d_skip": 5},
        {"layers_per_block": 1, "kernel_size": 4},
    ],
}
TOLERANCE = {
    torch.float32: {"rtol": 1e-3, "atol": 1e-3},
    torch.float64: {"rtol": 1e-7, "atol": 1e-9},
}


@dataclass(frozen=True)
class Case:
    """One drawn situation: streams that have run `past` steps and go on for calls of `lengths` steps."""

    seed: int
    batch: int
    past: int
    lengths: tuple[int, ...]
    reset_rate: float

    @property
    def steps(self) -> int:
        return sum(self.lengths)

    def generator(self, salt: int = 0) -> torch.Generator:
        return torch.Generator().manual_seed(1000 * self.seed + salt)


cases = st.builds(
    Case,
    seed=st.integers(0, 2**32),
    batch=st.integers(1, 3),
    past=st.integers(0, 12),
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=5).map(tuple),
    reset_rate=st.sampled_from([0.0, 0.1, 0.4, 1.0]),
)


def like(core: MemoryCore) -> torch.dtype:
    return next(core.parameters()).dtype


def inputs(core: MemoryCore, case: Case, steps: int, salt: int = 0) -> tuple[Tensor, Tensor]:
    """x (B, T, D) and reset (B, T) of a case; another salt gives others."""
    generator = case.generator(salt)
    x = torch.randn(case.batch, steps, core.d_model, generator=generator, dtype=torch.float64)
    reset = torch.rand(case.batch, steps, generator=generator) < case.reset_rate
    return x.to(like(core)), reset


@torch.no_grad()
def past_state(core: MemoryCore, case: Case, steps: int | None = None, salt: int = 1) -> State:
    """The state of streams that have run for some steps."""
    steps = case.past if steps is None else steps
    state = core.initial_state(case.batch)
    if not steps:
        return state
    x, reset = inputs(core, case, steps, salt)
    return core(x, state, reset).state


def assert_same(core: MemoryCore, actual: Tensor, expected: Tensor, what: str) -> None:
    torch.testing.assert_close(actual, expected, **TOLERANCE[like(core)], msg=lambda m: f"{what}: {m}")


def assert_same_state(core: MemoryCore, actual: State, expected: State, what: str) -> None:
    assert actual.keys() == expected.keys(), what
    for name, tensor in expected.items():
        assert actual[name].dtype == tensor.dtype, f"{what}: state[{name!r}]"
        assert_same(core, actual[name], tensor, f"{what}: state[{name!r}]")


def chunks(case: Case) -> Iterator[slice]:
    start = 0
    for length in case.lengths:
        yield slice(start, start + length)
        start += length


@torch.no_grad()
def chunk_invariance(core: MemoryCore, case: Case) -> None:
    """Law 1: any split into calls gives the outputs and the final state of one call."""
    x, reset = inputs(core, case, case.steps)
    state = past_state(core, case)
    whole = core(x, state, reset)
    for chunk in chunks(case):
        y, state, _, _ = core(x[:, chunk], state, reset[:, chunk])
        assert_same(core, y, whole.y[:, chunk], f"outputs of steps {chunk}")
    assert_same_state(core, state, whole.state, "after the last call")


@torch.no_grad()
def acting_is_learning(core: MemoryCore, case: Case) -> None:
    """Law 2: stepping gives what `forward` gives, through loading, reading and refreshing the stream."""
    core = copy.deepcopy(core)
    state = past_state(core, case)
    stream = core.stream(case.batch)
    assert_same_state(core, stream.state(), core.initial_state(case.batch), "a new stream")
    if case.past:
        stream.load(state)
    for call, length in enumerate(case.lengths):
        x, reset = inputs(core, case, length, salt=10 + call)
        before = {name: tensor.clone() for name, tensor in state.items()}
        y, after, _, _ = core(x, state, reset)
        for t in range(length):
            stepped = stream.step(x[:, t], reset[:, t] if reset[:, t].any() or t % 2 else None)
            assert_same(core, stepped, y[:, t], f"step {t} of call {call}")
        assert_same_state(core, state, before, "a state that was loaded or read changed later")
        state = stream.state()
        assert_same_state(core, state, after, f"stream after call {call}")
        if call % 3 == 1:
            stream.load(state)
        if call % 3 == 2:
            randomise(core, seed=case.seed + call)
            stream.refresh()


@torch.no_grad()
def causality(core: MemoryCore, case: Case) -> None:
    """Law 3: what comes at t changes no output before t."""
    x, reset = inputs(core, case, case.steps)
    state = past_state(core, case)
    other_x, other_reset = inputs(core, case, case.steps, salt=2)
    y = core(x, state, reset).y
    for t in range(1, case.steps):
        changed_x = torch.cat([x[:, :t], other_x[:, t:]], dim=1)
        changed_reset = torch.cat([reset[:, :t], other_reset[:, t:]], dim=1)
        assert_same(core, core(changed_x, state, changed_reset).y[:, :t], y[:, :t], f"changed from step {t} on")


@torch.no_grad()
def reset_isolation(core: MemoryCore, case: Case) -> None:
    """Law 4: nothing before a reset changes what comes from it on; a reset at phase 0 is a fresh start."""
    x, reset = inputs(core, case, case.steps)
    other_x, other_reset = inputs(core, case, case.steps, salt=2)
    at = case.seed % case.steps
    reset[:, at] = True
    one = core(x, past_state(core, case), reset)
    changed_x = torch.cat([other_x[:, :at], x[:, at:]], dim=1)
    changed_reset = torch.cat([other_reset[:, :at], reset[:, at:]], dim=1)
    two = core(changed_x, past_state(core, case, salt=3), changed_reset)
    assert_same(core, two.y[:, at:], one.y[:, at:], f"outputs from the reset at {at} on")
    assert_same_state(core, two.state, one.state, f"after the reset at {at}")

    reset[:, 0] = True
    turned = core(x, past_state(core, case, steps=case.past * core.period), reset)
    reset[:, 0] = False
    fresh = core(x, core.initial_state(case.batch), reset)
    assert_same(core, turned.y, fresh.y, "a reset at phase 0 against a fresh state")
    assert_same_state(core, turned.state, fresh.state, "a reset at phase 0 against a fresh state")


@torch.no_grad()
def row_independence(core: MemoryCore, case: Case) -> None:
    """Law 5: a row's output and state are those it has alone."""
    x, reset = inputs(core, case, case.steps)
    state = past_state(core, case)
    batch = core(x, state, reset)
    for row in range(case.batch):
        only = slice(row, row + 1)
        alone = core(x[only], {name: tensor[only] for name, tensor in state.items()}, reset[only])
        assert_same(core, alone.y, batch.y[only], f"row {row}")
        assert_same_state(core, alone.state, {k: v[only] for k, v in batch.state.items()}, f"row {row}")


@torch.no_grad()
def bounded_state(core: MemoryCore, case: Case) -> None:
    """Law 6: the state keeps the shapes and types it had at first, is batch-first and contiguous."""
    state = core.initial_state(case.batch)
    stream = core.stream(case.batch)
    first = {name: (tensor.shape, tensor.dtype) for name, tensor in state.items()}
    assert all(shape[0] == case.batch for shape, _ in first.values())
    for call, length in enumerate((*case.lengths, 60)):
        x, reset = inputs(core, case, length, salt=call)
        state = core(x, state, reset).state
        stream.step(x[:, 0], reset[:, 0])
        for now in (state, stream.state()):
            assert {name: (tensor.shape, tensor.dtype) for name, tensor in now.items()} == first
            assert all(tensor.is_contiguous() for tensor in now.values()), "safetensors saves no other layout"


def gradients(core: MemoryCore, case: Case) -> None:
    """Law 7: gradients are finite, however empty or uniform the memory, and none enters the state."""
    x, reset = inputs(core, case, case.steps)
    situations = {
        "as drawn": (x, past_state(core, case), reset),
        "all reset": (x, past_state(core, case), torch.ones_like(reset)),
        "empty memory": (x, core.initial_state(case.batch), None),
        "equal inputs": (torch.ones_like(x), past_state(core, case), reset),
        "zero inputs": (torch.zeros_like(x), core.initial_state(case.batch), reset),
        "one step": (x[:, :1], past_state(core, case), reset[:, :1]),
    }
    for situation, (x, state, reset) in situations.items():
        core.zero_grad()
        x = x.clone().requires_grad_()
        state = {k: v.clone().requires_grad_(v.is_floating_point()) for k, v in state.items()}
        output = core(x, state, reset)
        loss = (output.y * torch.randn(output.y.shape, generator=case.generator(4))).sum()
        sum(output.losses.values(), loss).backward()
        assert x.grad is not None, situation
        assert x.grad.isfinite().all(), f"{situation}: x"
        for name, parameter in core.named_parameters():
            assert parameter.grad is None or parameter.grad.isfinite().all(), f"{situation}: {name}"
        for name, tensor in state.items():
            assert tensor.grad is None, f"{situation}: a gradient flows into state[{name!r}]"
        for name, tensor in (output.state | output.metrics).items():
            assert not tensor.requires_grad, f"{situation}: {name} carries a gradient out"


def gradients_are_exact(core: MemoryCore) -> None:
    """Law 7: autograd agrees with finite differences in float64, for inputs and parameters."""
    core = copy.deepcopy(core).double()
    case = Case(seed=7, batch=2, past=3, lengths=(3,), reset_rate=0.2)
    x, reset = inputs(core, case, case.steps)
    state = past_state(core, case)
    names, parameters = zip(*core.named_parameters(), strict=True)

    def outputs(x: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
        values_by_name = dict(zip(names, values, strict=True))
        output = torch.func.functional_call(core, values_by_name, (x, state, reset))
        return (output.y, *output.losses.values())

    arguments = (
        x.requires_grad_(),
        *(parameter.detach().clone().requires_grad_() for parameter in parameters),
    )
    assert torch.autograd.gradcheck(outputs, arguments, fast_mode=True)


LAWS: tuple[Callable[[MemoryCore, Case], None], ...] = (
    chunk_invariance,
    acting_is_learning,
    causality,
    reset_isolation,
    row_independence,
    bounded_state,
    gradients,
)


@torch.no_grad()
def randomise(core: MemoryCore, seed: int) -> None:
    """Move every parameter off its initial value, so that none is zero or shared by chance."""
    generator = torch.Generator().manual_seed(seed % 2**63)
    for parameter in core.parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.add_(0.3 * noise.to(parameter.dtype))


VARIANTS = [(name, i) for name in memory_cores.names() for i in range(len(OPTIONS.get(name, [{}])))]
each_core = pytest.mark.parametrize(("name", "variant"), VARIANTS)


@functools.cache
def core_for(name: str, variant: int, dtype: torch.dtype) -> MemoryCore:
    torch.manual_seed(0)
    core = memory_cores.build(name, d_model=D_MODEL, **OPTIONS.get(name, [{}])[variant]).to(dtype)
    randomise(core, seed=1)
    return core


@each_core
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
@given(case=cases)
def test_law(law: Callable[[MemoryCore, Case], None], name: str, variant: int, dtype: torch.dtype, case: Case) -> None:
    law(core_for(name, variant, dtype), case)


@each_core
def test_gradients_are_exact(name: str, variant: int) -> None:
    gradients_are_exact(core_for(name, variant, torch.float64))


def test_options_are_of_registered_cores() -> None:
    assert set(OPTIONS) <= set(memory_cores.names())
