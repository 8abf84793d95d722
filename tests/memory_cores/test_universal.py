"""The Universal Transformer against plain loops over time and depth."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import memory_cores
from memory_cores.universal import active_steps
from memory_cores.universal.core import Universal
from tests.memory_cores.plain_universal import depth_signal, plain_stream

EXACT = {"rtol": 1e-9, "atol": 1e-9}


def tiny(seed: int = 0, **options: Any) -> Universal:
    """A float64 core of width 8 with 2 heads, every parameter moved off its initial value."""
    torch.manual_seed(seed)
    small = {"d_model": 8, "max_ponder_steps": 4, "num_heads": 2, "d_ff": 6, "memory_length": 3, "halting_bias": -0.5}
    core = memory_cores.build("universal", **{**small, **options}).double()
    with torch.no_grad():
        for parameter in core.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        if core.adaptive:
            core.halting_unit.weight.mul_(3.0)  # so that steps halt apart
    return core


def sample(batch: int, steps: int, reset_rate: float = 0.0) -> tuple[Tensor, Tensor]:
    return torch.randn(batch, steps, 8, dtype=torch.float64), torch.rand(batch, steps) < reset_rate


@pytest.mark.parametrize("choose_below", [0.0, 2.0])
@pytest.mark.parametrize(
    "options",
    [
        {"block": "gtrxl"},
        {"block": "post", "positions": "rotary", "granularity": 3, "transition": "convolution"},
        {"block": "trxl_i", "transition": "convolution", "convolution_width": 5, "memory_length": 1},
        {"block": "gtrxl", "positions": "rotary", "depth_signal": "learned", "halting": "tensor2tensor"},
        {"block": "post", "transition": "convolution", "memory_length": 0, "halting_epsilon": 0.2},
    ],
    ids=lambda options: "-".join(str(value) for value in options.values()),
)
def test_equals_the_plain_loops(options: dict[str, Any], choose_below: float, monkeypatch: Any) -> None:
    monkeypatch.setattr(active_steps, "GATHER_BELOW", choose_below)
    core = tiny(ponder_cost=0.3, **options)
    x, reset = sample(2, 10, reset_rate=0.15)
    output = core(x, core.initial_state(2), reset)
    rows = [plain_stream(core, x[row], reset[row]) for row in range(2)]
    steps = [n for row in rows for n in row.steps]
    assert len(set(steps)) > 1, "the case should have several depths"
    y = torch.stack([row.y for row in rows])
    torch.testing.assert_close(output.y, y, **EXACT)
    cost = 0.3 * (torch.tensor(steps) + torch.stack([r for row in rows for r in row.remainders])).mean()
    torch.testing.assert_close(output.losses["ponder"], cost, **EXACT)
    assert output.metrics["ponder_steps"].item() == pytest.approx(sum(steps) / len(steps))
    for n in range(1, 5):
        assert output.metrics[f"ponder_share_{n}"].item() == pytest.approx(steps.count(n) / len(steps))

    for row, plain in enumerate(rows):
        remembered = int(output.state["age"][row].clamp(max=core.schedule.capacity))
        for depth, inputs in enumerate(plain.inputs):
            if remembered:
                newest = output.state["memory"][row, depth, -remembered:]
                torch.testing.assert_close(newest, torch.stack(inputs[-remembered:]), **EXACT)

    names, parameters = zip(*core.named_parameters(), strict=True)
    actual = torch.autograd.grad(output.y.sin().sum() + output.losses["ponder"], parameters)
    expected = torch.autograd.grad(y.sin().sum() + cost, parameters)
    for name, one, two in zip(names, actual, expected, strict=True):
        torch.testing.assert_close(one, two, **EXACT, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("block", ["post", "pre", "trxl_i", "gtrxl"])
@pytest.mark.parametrize("positions", ["relative", "rotary"])
@torch.no_grad()
def test_halting_at_once_is_one_plain_layer(block: Any, positions: Any) -> None:
    core = tiny(block=block, positions=positions, halting_bias=1e4)
    layer = memory_cores.build(
        "transformer_xl",
        d_model=8,
        num_layers=1,
        num_heads=2,
        d_ff=6,
        memory_length=3,
        block=block,
        positions=positions,
    ).double()
    layer.load_state_dict({k: v for k, v in core.state_dict().items() if not k.startswith("halting_unit")})
    x, reset = sample(2, 9, reset_rate=0.1)
    output = core(x, core.initial_state(2), reset)
    torch.testing.assert_close(output.y, layer(x + depth_signal(core, 1), layer.initial_state(2), reset).y, **EXACT)
    assert output.metrics["ponder_share_1"] == 1


@torch.no_grad()
def test_a_fixed_depth_is_the_layer_again_and_again() -> None:
    core = tiny(block="post", halting="none", memory_length=20)
    layer = memory_cores.build(
        "transformer_xl", d_model=8, num_layers=1, num_heads=2, d_ff=6, memory_length=20, block="post"
    ).double()
    layer.load_state_dict(core.state_dict())
    x, _ = sample(1, 12)
    output = core(x, core.initial_state(1))
    for n in range(1, 5):
        x = layer(x + depth_signal(core, n), layer.initial_state(1)).y
    torch.testing.assert_close(output.y, x, **EXACT)
    assert output.losses == output.metrics == {}


@pytest.mark.parametrize("transition", ["mlp", "convolution"])
@pytest.mark.parametrize("bias", [-1e4, -30.0, 1e4])
@pytest.mark.parametrize("cap", [1, 5])
def test_never_halting_and_halting_at_once_stay_finite(bias: float, cap: int, transition: Any) -> None:
    core = tiny(halting_bias=bias, max_ponder_steps=cap, transition=transition).float()
    x = torch.randn(2, 5, 8, requires_grad=True)
    output = core(x, core.initial_state(2))
    assert output.metrics["ponder_steps"].item() == (cap if bias < 0 else 1)
    (output.y.sum() + output.losses["ponder"]).backward()
    assert x.grad is not None
    assert all(p.grad is None or p.grad.isfinite().all() for p in (x, *core.parameters()))
    stream = core.stream(2)
    stepped = torch.stack([stream.step(x[:, t].detach()) for t in range(5)], dim=1)
    torch.testing.assert_close(stepped, output.y.detach(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("positions", ["relative", "rotary"])
@pytest.mark.parametrize("choose_below", [0.0, 0.7, 2.0])
@torch.no_grad()
def test_a_long_call_in_query_blocks_equals_short_calls(positions: Any, choose_below: float, monkeypatch: Any) -> None:
    monkeypatch.setattr(active_steps, "GATHER_BELOW", choose_below)
    core = tiny(positions=positions, granularity=2, transition="convolution")
    x, reset = sample(2, 300, reset_rate=0.02)
    whole = core(x, core.initial_state(2), reset)
    assert whole.metrics["ponder_share_4"] > 0.05
    monkeypatch.setattr(active_steps, "GATHER_BELOW", 0.0)
    state, outputs = core.initial_state(2), []
    for start in range(0, 300, 50):
        y, state, _, _ = core(x[:, start : start + 50], state, reset[:, start : start + 50])
        outputs.append(y)
    torch.testing.assert_close(torch.cat(outputs, dim=1), whole.y)
    torch.testing.assert_close(state, whole.state)


@torch.no_grad()
def test_halted_steps_are_not_computed() -> None:
    core = tiny(block="post")
    x, _ = sample(2, 40)
    sums: list[Tensor] = []
    hook = core.halting_unit.register_forward_hook(lambda unit, inputs, h: sums.append(h.logit()))
    core(x, core.initial_state(2))
    hook.remove()
    going_on = sums[0] <= sums[0].quantile(0.1)  # the tenth of the steps that is to go on after depth step 1
    core.halting_unit.bias += torch.tensor(0.99).logit() - sums[0].quantile(0.1) - 1e-6

    computed: list[int] = []
    core.block.mlp.register_forward_hook(lambda mlp, inputs, y: computed.append(inputs[0].shape[1]))
    output = core(x, core.initial_state(2))
    assert computed[:2] == [40, int(going_on.sum(dim=1).max())]
    assert output.metrics["ponder_share_1"].item() == pytest.approx(0.9)
    core.halting_unit.bias += 1e4
    computed.clear()
    core(x, core.initial_state(2))
    assert computed == [40]


@torch.no_grad()
def test_depth_may_be_greater_than_in_training() -> None:
    core = tiny(max_ponder_steps=2)
    deep = tiny(seed=1, max_ponder_steps=5, memory_length=6)
    deep.load_state_dict(core.state_dict())
    x, reset = sample(1, 9)
    torch.testing.assert_close(deep(x, deep.initial_state(1)).y[0], plain_stream(deep, x[0], reset[0]).y, **EXACT)


@pytest.mark.parametrize("options", [{}, {"block": "post", "transition": "convolution", "positions": "rotary"}])
@torch.no_grad()
def test_a_long_stream_does_not_drift(options: dict[str, Any]) -> None:
    core = tiny(halting="none", max_ponder_steps=2, **options).float()
    x = torch.randn(1, 600, 8)
    stream = core.stream(1)
    stepped = torch.stack([stream.step(x[:, t]) for t in range(600)], dim=1)
    exact = core.double()(x.double(), core.initial_state(1)).y
    error = (stepped.double() - exact).abs().amax(dim=(0, 2))
    assert error[-100:].max() < 2 * error[:100].max() + 1e-5


@pytest.mark.parametrize("transition", ["mlp", "convolution"])
def test_bfloat16_autocast(transition: Any) -> None:
    core = tiny(transition=transition, halting="none", max_ponder_steps=2).float()
    x = torch.randn(2, 6, 8)
    exact = core(x, core.initial_state(2))
    with torch.autocast("cpu", torch.bfloat16):
        first = core(x[:, :3].bfloat16(), core.initial_state(2))
        y, state, _, _ = core(x[:, 3:], first.state)
        stream = core.stream(2)
        stepped = torch.stack([stream.step(x[:, t]) for t in range(6)], dim=1)
    y.square().sum().backward()
    assert {name: tensor.dtype for name, tensor in state.items()} == {k: v.dtype for k, v in exact.state.items()}
    torch.testing.assert_close(torch.cat([first.y, y], dim=1), exact.y, rtol=0.1, atol=0.15)
    torch.testing.assert_close(stepped, exact.y, rtol=1e-4, atol=1e-4)
    assert all(parameter.grad.isfinite().all() for parameter in core.parameters())


def test_inference_mode_does_not_leak_into_training() -> None:
    core = tiny(transition="convolution").float()
    with torch.inference_mode():
        stream = core.stream(2)
        for _ in range(20):
            stream.step(torch.randn(2, 8), torch.tensor([True, False]))
        state = stream.state()
    stream.step(torch.randn(2, 8))
    core(torch.randn(2, 3, 8), state).y.sum().backward()
    assert core.content_bias.grad is not None
