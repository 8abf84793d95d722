"""The seven laws of a memory core, on which trainers, actors and checkpoints rely.

`check_laws` holds any core to them in one line of its tests:

    def test_my_core() -> None:
        check_laws(lambda: MyCore(8, MyOptions()))

A law is a function of a core and a drawn `Case` and fails by AssertionError.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from memory_cores.core import MemoryCore, State

TOLERANCE = {torch.float32: (1e-3, 1e-3), torch.float64: (1e-7, 1e-9)}
"""Relative and absolute tolerance between results that must be equal but may be computed in a different order."""


class LawError(AssertionError):
    """A core broke a law; the message names the law, what it asks for, and the case in which it failed."""


def check_laws(make_core: Callable[[], MemoryCore], examples: int = 50, seed: int = 0) -> None:
    """Hold a core to all seven laws, in float32 and float64, each on `examples` random cases, small ones first.

    make_core: returns a small core, of a width of about 8; its weights are drawn anew. Raises LawError for the first
    law that does not hold.
    """
    for dtype in (torch.float32, torch.float64):
        torch.manual_seed(seed)
        core = make_core().to(dtype)
        randomise(core, seed)
        for law in LAWS:
            for case in draw_cases(examples, seed):
                with name_law(law, f"{dtype}, {case}"):
                    law(core, case)
    with name_law(gradients_are_exact, "gradcheck in float64"):
        gradients_are_exact(core)


@contextlib.contextmanager
def name_law(law: Callable[..., None], situation: str) -> Iterator[None]:
    """Turn whatever the check of a law raises into a LawError that names the law."""
    try:
        yield
    except Exception as error:
        name, (says, *_) = law.__name__.replace("_", " "), (law.__doc__ or "").splitlines()
        raise LawError(f"{name} does not hold, {situation}\n{says}\n{error}") from error


@dataclass(frozen=True)
class Case:
    """One random situation: streams that have run `past` steps and then run calls of `lengths` steps."""

    seed: int
    batch: int
    past: int
    lengths: tuple[int, ...]
    reset_rate: float

    @property
    def steps(self) -> int:
        """Steps of all calls together."""
        return sum(self.lengths)

    def generator(self, salt: int = 0) -> torch.Generator:
        """A random generator for the case, another for each salt."""
        return torch.Generator().manual_seed(1000 * self.seed + salt)


def draw_cases(count: int, seed: int) -> list[Case]:
    """`count` random cases, the smaller before the larger."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=generator))

    cases = [
        Case(
            seed=index,
            batch=draw(1, 3),
            past=draw(0, 12),
            lengths=tuple(draw(1, 9) for _ in range(draw(1, 5))),
            reset_rate=(0.0, 0.1, 0.4, 1.0)[draw(0, 3)],
        )
        for index in range(count)
    ]
    return sorted(cases, key=lambda case: case.batch * (case.past + case.steps))


def parameter_dtype(core: MemoryCore) -> torch.dtype:
    """The dtype of a core's parameters."""
    return next(core.parameters()).dtype


def inputs(core: MemoryCore, case: Case, steps: int, salt: int = 0) -> tuple[Tensor, Tensor]:
    """The inputs x (B, T, D) and reset (B, T) of a case, with T = `steps`; different for each salt."""
    generator = case.generator(salt)
    x = torch.randn(case.batch, steps, core.d_model, generator=generator, dtype=torch.float64)
    reset = torch.rand(case.batch, steps, generator=generator) < case.reset_rate
    return x.to(parameter_dtype(core)), reset


@torch.no_grad()
def past_state(core: MemoryCore, case: Case, steps: int | None = None, salt: int = 1) -> State:
    """The state of a case's streams after `steps` steps, `case.past` if None."""
    steps = case.past if steps is None else steps
    state = core.initial_state(case.batch)
    if not steps:
        return state
    x, reset = inputs(core, case, steps, salt)
    return core(x, state, reset).state


def assert_same(core: MemoryCore, actual: Tensor, expected: Tensor, what: str) -> None:
    """Raise AssertionError unless two tensors (...) are equal within the tolerance of the core's dtype."""
    rtol, atol = TOLERANCE[parameter_dtype(core)]
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=atol, msg=lambda m: f"{what}: {m}")


def assert_same_state(core: MemoryCore, actual: State, expected: State, what: str) -> None:
    """Raise AssertionError unless two states have equal entries, in dtype and within the tolerance."""
    assert actual.keys() == expected.keys(), what
    for name, tensor in expected.items():
        assert actual[name].dtype == tensor.dtype, f"{what}: state[{name!r}]"
        assert_same(core, actual[name], tensor, f"{what}: state[{name!r}]")


def chunks(case: Case) -> Iterator[slice]:
    """The steps of each call of a case."""
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
    """Law 3: what comes at t changes no output before t.

    The inputs that are changed from 1, 2, ... on are the rows of one batch, which law 5 holds apart.
    """
    x, reset = inputs(core, case, case.steps)
    state = past_state(core, case)
    other_x, other_reset = inputs(core, case, case.steps, salt=2)
    y = core(x, state, reset).y
    steps, copies = case.steps, case.steps - 1
    if not copies:
        return
    before = (torch.arange(steps) < torch.arange(1, steps)[:, None])[:, None]  # (T - 1, 1, T)
    changed_x = torch.where(before[..., None], x, other_x).flatten(0, 1)  # ((T - 1) B, T, D)
    changed_reset = torch.where(before, reset, other_reset).flatten(0, 1)
    copied = {name: tensor.repeat(copies, *[1] * (tensor.dim() - 1)) for name, tensor in state.items()}
    changed = core(changed_x, copied, changed_reset).y.view(copies, *y.shape)
    later = ~before[..., None]
    assert_same(core, changed.masked_fill(later, 0.0), y.masked_fill(later, 0.0), "copy i changed from step i + 1 on")


@torch.no_grad()
def reset_isolation(core: MemoryCore, case: Case) -> None:
    """Law 4: nothing before a reset changes anything from it on; a reset at phase 0 equals a fresh start."""
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
    """Law 7: gradients are finite, however empty or uniform the memory, and none flows into the state."""
    x, reset = inputs(core, case, case.steps)
    situations: dict[str, tuple[Tensor, State, Tensor | None]] = {
        "as drawn": (x, past_state(core, case), reset),
        "all reset": (x, past_state(core, case), torch.ones_like(reset)),
        "empty memory": (x, core.initial_state(case.batch), None),
        "equal inputs": (torch.ones_like(x), past_state(core, case), reset),
        "zero inputs": (torch.zeros_like(x), core.initial_state(case.batch), reset),
        "one step": (x[:, :1], past_state(core, case), reset[:, :1]),
    }
    for situation, (drawn, past, begins) in situations.items():
        core.zero_grad()
        x = drawn.clone().requires_grad_()
        state = {k: v.clone().requires_grad_(v.is_floating_point()) for k, v in past.items()}
        output = core(x, state, begins)
        loss = (output.y * torch.randn(output.y.shape, generator=case.generator(4))).sum()
        torch.autograd.backward(sum(output.losses.values(), loss))
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


@torch.no_grad()
def randomise(core: MemoryCore, seed: int) -> None:
    """Move every parameter off its initial value, so that none is zero or shared by chance."""
    generator = torch.Generator().manual_seed(seed % 2**63)
    for parameter in core.parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.add_(0.3 * noise.to(parameter.dtype))


LAWS: tuple[Callable[[MemoryCore, Case], None], ...] = (
    chunk_invariance,
    acting_is_learning,
    causality,
    reset_isolation,
    row_independence,
    bounded_state,
    gradients,
)
