"""Transformer-XL against the papers' equations written as plain loops over steps, heads and keys."""

from __future__ import annotations

import math
from typing import Any, get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import memory_cores
from memory_cores.attention.block import BlockKind
from memory_cores.attention.positions import Positions, rotary_table, rotate
from memory_cores.attention.schedule import MemorySchedule
from memory_cores.layers.gating import GRUGate
from memory_cores.transformer_xl import TransformerXL

BLOCKS = get_args(BlockKind)
POSITIONS = get_args(Positions)


def tiny(seed: int = 0, **options: Any) -> TransformerXL:
    """A float64 core of width 8 with 2 heads, every parameter moved off its initial value."""
    torch.manual_seed(seed)
    core = memory_cores.build(
        "transformer_xl", **{"d_model": 8, "num_layers": 2, "num_heads": 2, "d_ff": 6, **options}
    ).double()
    with torch.no_grad():
        for parameter in core.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return core


def plain_norm(norm: Any, x: Tensor) -> Tensor:
    centred = x - x.mean()
    return centred / (centred.square().mean() + norm.eps).sqrt() * norm.weight + norm.bias


def plain_gate(gate: GRUGate, x: Tensor, y: Tensor) -> Tensor:
    """Parisotto et al., section 3.2.5, with the six matrices apart."""
    (w_r, u_r), (w_z, u_z) = (rows.chunk(2, dim=1) for rows in gate.reset_update.weight.chunk(2, dim=0))
    w_g, u_g = gate.candidate.weight.chunk(2, dim=1)
    r = torch.sigmoid(w_r @ y + u_r @ x)
    z = torch.sigmoid(w_z @ y + u_z @ x - gate.bias)
    h = torch.tanh(w_g @ y + u_g @ (r * x))
    return (1 - z) * x + z * h


def plain_rotation(x: Tensor, position: int) -> Tensor:
    """Each pair of coordinates as a complex number, turned by its own angle."""
    half = len(x) // 2
    angles = [position * 10000 ** (-2 * i / len(x)) for i in range(half)]
    turn = torch.tensor([complex(math.cos(a), math.sin(a)) for a in angles], dtype=torch.complex128)
    turned = torch.complex(x[:half], x[half:]) * turn
    return torch.cat([turned.real, turned.imag])


def plain_attention(core: TransformerXL, block: Any, context: Tensor, i: int, first: int) -> Tensor:
    """Step i of context (N, D) attends to the steps first, ..., i. Dai et al., section 3.3."""
    w_q, w_k, w_v = block.attention.qkv.weight.chunk(3, dim=0)
    width = core.head_width
    outputs = []
    for head in range(core.d_model // width):
        rows = slice(head * width, (head + 1) * width)
        query = w_q[rows] @ context[i]
        scores = []
        for j in range(first, i + 1):
            key = w_k[rows] @ context[j]
            if core.positions == "none":
                score = query @ key
            elif core.positions == "relative":
                u, v = core.content_bias[head, 0], core.position_bias[head, 0]
                angles = [(i - j) / 10000 ** (2 * k / core.d_model) for k in range(core.d_model // 2)]
                r = torch.tensor([math.sin(a) for a in angles] + [math.cos(a) for a in angles], dtype=key.dtype)
                distance = block.attention.position.weight[rows] @ r
                score = query @ key + query @ distance + u @ key + v @ distance
            else:
                score = plain_rotation(query, i) @ plain_rotation(key, j)
            scores.append(score / math.sqrt(width))
        exponentials = [torch.exp(score) for score in scores]
        values = [e * (w_v[rows] @ context[j]) for e, j in zip(exponentials, range(first, i + 1), strict=True)]
        outputs.append(sum(values) / sum(exponentials))
    return block.attention.output.weight @ torch.cat(outputs)


def plain_step(core: TransformerXL, block: Any, inputs: Tensor, i: int, first: int) -> Tensor:
    """The output of one block at step i of its inputs (N, D)."""

    def mlp(x: Tensor) -> Tensor:
        hidden = torch.relu(block.mlp.hidden.weight @ x + block.mlp.hidden.bias)
        return block.mlp.output.weight @ hidden + block.mlp.output.bias

    x = inputs[i]
    if block.kind == "post":
        h = plain_norm(block.attention_norm, x + plain_attention(core, block, inputs, i, first))
        return plain_norm(block.mlp_norm, h + mlp(h))
    context = torch.stack([plain_norm(block.attention_norm, row) for row in inputs])
    attended = plain_attention(core, block, context, i, first)
    h = plain_residual(block, "attention_gate", x, attended)
    return plain_residual(block, "mlp_gate", h, mlp(plain_norm(block.mlp_norm, h)))


def plain_residual(block: Any, gate: str, x: Tensor, y: Tensor) -> Tensor:
    """The residual sum of a block whose norms come first."""
    if block.kind == "pre":
        return x + y
    return x + torch.relu(y) if block.kind == "trxl_i" else plain_gate(getattr(block, gate), x, torch.relu(y))


def plain_stream(core: TransformerXL, x: Tensor, reset: Tensor) -> Tensor:
    """One stream x (T, D) with reset (T,) from its beginning, by the memory schedule."""
    n, g = core.schedule.memory_length, core.schedule.granularity
    for block in core.blocks:
        outputs = []
        episode = 0
        for t in range(len(x)):
            episode = t if reset[t] else episode
            boundary = max(0, g * math.floor((t - n) / g))
            outputs.append(plain_step(core, block, x, t, max(boundary, episode)))
        x = torch.stack(outputs)
    return x if core.final_norm is None else torch.stack([plain_norm(core.final_norm, row) for row in x])


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize(("memory_length", "granularity"), [(3, 1), (4, 3), (2, 4), (0, 1)])
@torch.no_grad()
def test_equals_the_equations(block: str, positions: str, memory_length: int, granularity: int) -> None:
    core = tiny(block=block, positions=positions, memory_length=memory_length, granularity=granularity)
    x = torch.randn(2, 13, 8, dtype=torch.float64)
    reset = torch.rand(2, 13) < 0.15
    y = core(x, core.initial_state(2), reset).y
    for row in range(2):
        torch.testing.assert_close(y[row], plain_stream(core, x[row], reset[row]), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("memory_length", [0, 4, 8])
@torch.no_grad()
def test_aligned_segments_are_the_schedule_of_the_paper(block: str, memory_length: int) -> None:
    segment = 4
    core = tiny(block=block, memory_length=memory_length, granularity=segment)
    x = torch.randn(1, 4 * segment, 8, dtype=torch.float64)
    state = core.initial_state(1)
    memories = [x.new_zeros(0, 8) for _ in core.blocks]
    for start in range(0, x.shape[1], segment):
        y, state, _, _ = core(x[:, start : start + segment], state)
        h = x[0, start : start + segment]
        for layer, block in enumerate(core.blocks):
            context = torch.cat([memories[layer], h])
            remembered = len(memories[layer])
            memories[layer] = context[max(len(context) - memory_length, 0) :]
            h = torch.stack([plain_step(core, block, context, i, 0) for i in range(remembered, len(context))])
        expected = h if core.final_norm is None else torch.stack([plain_norm(core.final_norm, row) for row in h])
        torch.testing.assert_close(y[0], expected, rtol=1e-9, atol=1e-9)


@given(n=st.integers(0, 30), g=st.integers(1, 12), t=st.integers(0, 200))
def test_context_reaches_back_to_the_boundary(n: int, g: int, t: int) -> None:
    schedule = MemorySchedule(n, g)
    context = schedule.context(t % g)
    assert t - context == g * math.floor((t - n) / g)
    assert n <= context <= schedule.capacity


@given(
    steps=st.integers(1, 400),
    n=st.integers(0, 200),
    g=st.integers(1, 150),
    phase=st.integers(0, 149),
    age=st.integers(0, 400),
    reset_rate=st.sampled_from([0.0, 0.02]),
)
def test_each_query_sees_its_episode_from_its_boundary_on(
    steps: int, n: int, g: int, phase: int, age: int, reset_rate: float
) -> None:
    schedule = MemorySchedule(n, g)
    first_phase = phase % g
    reset = torch.rand(1, steps, generator=torch.Generator().manual_seed(steps)) < reset_rate
    window = schedule.window(torch.tensor([min(age, schedule.span)]), torch.tensor([first_phase]), reset, steps)
    assert [view.start for view in window.views] + [steps] == [0] + [view.stop for view in window.views]
    begins = -min(age, schedule.span)
    for view in window.views:
        keys = view.mask.shape[-1]
        (run,) = view.runs
        assert run.keys == slice(schedule.capacity + view.stop - keys, schedule.capacity + view.stop)
        assert run.distance == view.start - (view.stop - 1)
        for query in range(view.start, view.stop):
            begins = query if reset[0, query] else begins
            seen = view.stop - keys + view.mask[0, query - view.start].nonzero()[:, 0]
            assert seen.tolist() == list(range(max(query - schedule.context(first_phase + query), begins), query + 1))


@given(n=st.integers(0, 400), g=st.integers(1, 300), phase=st.integers(0, 299))
def test_views_have_no_key_that_none_of_their_queries_sees(n: int, g: int, phase: int) -> None:
    schedule = MemorySchedule(n, g)
    window = schedule.window(torch.tensor([schedule.span]), torch.tensor([phase % g]), None, 700)
    assert all(view.mask.any(dim=1).all() for view in window.views)


@pytest.mark.parametrize("positions", POSITIONS)
@torch.no_grad()
def test_a_long_call_in_query_blocks_equals_short_calls(positions: str) -> None:
    core = tiny(positions=positions, memory_length=5, granularity=2)
    x = torch.randn(2, 300, 8, dtype=torch.float64)
    reset = torch.rand(2, 300) < 0.02
    whole = core(x, core.initial_state(2), reset)
    state, outputs = core.initial_state(2), []
    for start in range(0, 300, 50):
        y, state, _, _ = core(x[:, start : start + 50], state, reset[:, start : start + 50])
        outputs.append(y)
    torch.testing.assert_close(torch.cat(outputs, dim=1), whole.y)
    torch.testing.assert_close(state, whole.state)


@pytest.mark.parametrize("positions", POSITIONS)
@torch.no_grad()
def test_a_long_stream_does_not_drift(positions: str) -> None:
    core = tiny(positions=positions, memory_length=6).float()
    x = torch.randn(1, 1000, 8)
    stream = core.stream(1)
    stepped = torch.stack([stream.step(x[:, t]) for t in range(1000)], dim=1)
    exact = core.double()(x.double(), core.initial_state(1)).y
    error = (stepped.double() - exact).abs().amax(dim=(0, 2))
    assert error[-200:].max() < 2 * error[:200].max() + 1e-5


@pytest.mark.parametrize("positions", POSITIONS)
@torch.no_grad()
def test_weights_do_not_depend_on_the_memory_length(positions: str) -> None:
    short = tiny(positions=positions, memory_length=2)
    long = tiny(seed=1, positions=positions, memory_length=7)
    long.load_state_dict(short.state_dict())
    x = torch.randn(1, 10, 8, dtype=torch.float64)
    expected = plain_stream(long, x[0], torch.zeros(10, dtype=torch.bool))
    torch.testing.assert_close(long(x, long.initial_state(1)).y[0], expected)


@given(position=st.integers(0, 10_000), width=st.sampled_from([2, 4, 8]))
def test_rotation_equals_complex_multiplication(position: int, width: int) -> None:
    x = torch.randn(3, 1, width, dtype=torch.float64)
    turned = rotate(x, *rotary_table(torch.tensor([position]), width, torch.float64))
    for row in range(3):
        torch.testing.assert_close(turned[row, 0], plain_rotation(x[row, 0], position))


def test_gate_starts_near_the_identity() -> None:
    gate = GRUGate(256)
    x, y = torch.randn(2, 64, 256).unbind()
    share = torch.sigmoid(-gate.bias)  # z where both products are zero
    torch.testing.assert_close(share, torch.full((256,), 1 / (1 + math.exp(2))))
    moved = (gate(x, y) - x).norm() / x.norm()
    assert moved < 0.5
    with torch.no_grad():
        gate.bias.fill_(50.0)
    torch.testing.assert_close(gate(x, y), x)


@pytest.mark.parametrize("positions", POSITIONS)
@torch.no_grad()
def test_refresh_depends_on_the_state_alone(positions: str) -> None:
    core = tiny(positions=positions, memory_length=4, granularity=2).float()
    one, two = core.stream(2), core.stream(2)
    for _ in range(23):
        one.step(torch.randn(2, 8))
    two.load(one.state())
    one.refresh()
    for _ in range(9):
        x = torch.randn(2, 8)
        assert torch.equal(one.step(x), two.step(x))


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("positions", POSITIONS)
def test_bfloat16_autocast(block: str, positions: str) -> None:
    core = tiny(block=block, positions=positions, memory_length=4).float()
    x = torch.randn(2, 6, 8)
    exact = core(x, core.initial_state(2))
    with torch.autocast("cpu", torch.bfloat16):
        state = core.initial_state(2)
        first = core(x[:, :3].bfloat16(), state)
        y, state, _, _ = core(x[:, 3:], first.state)
        stream = core.stream(2)
        stepped = torch.stack([stream.step(x[:, t]) for t in range(6)], dim=1)
    y.square().sum().backward()
    assert y.dtype == state["memory"].dtype == torch.float32
    torch.testing.assert_close(torch.cat([first.y, y], dim=1), exact.y, rtol=0.1, atol=0.15)
    torch.testing.assert_close(stepped, exact.y, rtol=1e-4, atol=1e-4)
    assert all(parameter.grad.isfinite().all() for parameter in core.parameters())


def test_inference_mode_does_not_leak_into_training() -> None:
    core = tiny(memory_length=4).float()
    with torch.inference_mode():
        stream = core.stream(2)
        for _ in range(20):
            stream.step(torch.randn(2, 8), torch.tensor([True, False]))
        state = stream.state()
    stream.step(torch.randn(2, 8))
    core(torch.randn(2, 3, 8), state).y.sum().backward()
    assert core.content_bias.grad is not None


def test_dropout_acts_in_training_only() -> None:
    core = tiny(dropout=0.5)
    x = torch.randn(1, 5, 8, dtype=torch.float64)
    state = core.initial_state(1)
    assert not torch.equal(core(x, state).y, core(x, state).y)
    core.eval()
    assert torch.equal(core(x, state).y, core(x, state).y)


def test_bad_calls_are_named() -> None:
    core = tiny(memory_length=4, granularity=3)
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    state = core.initial_state(2)
    mixed = {**state, "phase": torch.tensor([0, 1])}
    beyond = {**state, "phase": torch.tensor([3, 3])}
    for call, message in (
        (lambda: core(x, mixed), r"share a phase.*\[0, 1\]"),
        (lambda: core.stream(2).load(mixed), r"share a phase.*\[0, 1\]"),
        (lambda: core(x, beyond), r"state\['phase'\] is 3, expected 0 to 2"),
        (lambda: core(x[..., :7], state), r"x has shape \(2, 5, 7\), expected \(batch, steps >= 1, 8\)"),
        (lambda: core(x[:, :0], state), r"x has shape \(2, 0, 8\)"),
        (lambda: core(x, state, torch.zeros(2, 5)), r"reset is torch.float32 \(2, 5\), expected torch.bool"),
        (
            lambda: core(x, core.initial_state(3)),
            r"state\['memory'\] is torch.float64 \(3, 2, 6, 8\), expected",
        ),
        (
            lambda: core(x, {**state, "memory": state["memory"].float()}),
            r"state\['memory'\] is torch.float32",
        ),
        (lambda: core(x.long(), state), r"x is torch.int64, expected a floating-point type"),
        (lambda: core(x, {"age": state["age"]}), r"state has the entries \['age'\]"),
        (lambda: core.stream(2).step(x[:1, 0]), r"x has shape \(1, 8\), expected \(2, 8\)"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
