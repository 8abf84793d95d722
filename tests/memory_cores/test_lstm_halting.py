"""The LSTM with adaptive computation time against plain loops."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import memory_cores
from memory_cores.lstm import core as lstm_core
from memory_cores.lstm.core import LSTM
from tests.memory_cores import plain_act

EXACT = {"rtol": 1e-9, "atol": 1e-9}


def tiny(**options: Any) -> LSTM:
    torch.manual_seed(0)
    core = memory_cores.build(
        "lstm", **{"d_model": 6, "halting": "graves", "max_ponder_steps": 4, "halting_bias": 0.5, **options}
    ).double()
    with torch.no_grad():
        for parameter in core.parameters():
            parameter.add_(0.4 * torch.randn_like(parameter))
        core.halting_unit.weight.mul_(4.0)  # so that inputs halt apart
    return core


def sample() -> tuple[Tensor, Tensor]:
    return torch.randn(3, 7, 6, dtype=torch.float64), torch.rand(3, 7) < 0.2


@pytest.mark.parametrize("compact_below", [0.0, 2.0])
@pytest.mark.parametrize(("halting", "layers"), [("graves", 1), ("graves", 2), ("tensor2tensor", 1)])
def test_equals_the_plain_loops(halting: Any, layers: int, compact_below: float, monkeypatch: Any) -> None:
    monkeypatch.setattr(lstm_core, "COMPACT_BELOW", compact_below)
    core = tiny(halting=halting, num_layers=layers, ponder_cost=0.3)
    x, reset = sample()
    output = core(x, core.initial_state(3), reset)
    rows = [plain_act.adaptive_lstm(core, x[row], reset[row]) for row in range(3)]
    steps = [n for _, taken, _, _ in rows for n in taken]
    assert len(set(steps)) > 1, "the case should have several depths"
    for row, (y, _, _, (h, c)) in enumerate(rows):
        torch.testing.assert_close(output.y[row], y, **EXACT)
        torch.testing.assert_close(output.state["h"][row], torch.stack(h), **EXACT)
        torch.testing.assert_close(output.state["c"][row], torch.stack(c), **EXACT)
    remainders = torch.stack([r for _, _, remainders, _ in rows for r in remainders])
    cost = 0.3 * (torch.tensor(steps) + remainders).mean()
    torch.testing.assert_close(output.losses["ponder"], cost, **EXACT)
    assert output.metrics["ponder_steps"].item() == pytest.approx(sum(steps) / len(steps))

    expected_y = torch.stack([y for y, _, _, _ in rows])
    for actual, expected in zip(
        torch.autograd.grad((output.y.sin()).sum() + output.losses["ponder"], list(core.parameters())),
        torch.autograd.grad(expected_y.sin().sum() + cost, list(core.parameters())),
        strict=True,
    ):
        torch.testing.assert_close(actual, expected, **EXACT)


def test_halting_at_once_is_a_plain_lstm_with_a_flag() -> None:
    core = tiny(halting_bias=1e4)
    x, _ = sample()
    output = core(x, core.initial_state(3))
    y, (h, c) = core.lstm(torch.cat([x, torch.ones(3, 7, 1)], dim=2))
    torch.testing.assert_close(output.y, y, **EXACT)
    torch.testing.assert_close(output.state["h"], h.transpose(0, 1), **EXACT)
    torch.testing.assert_close(output.state["c"], c.transpose(0, 1), **EXACT)
    assert output.metrics["ponder_share_1"] == 1
    assert output.losses["ponder"].item() == pytest.approx(0.01 * 2)


@pytest.mark.parametrize("bias", [-1e4, -30.0, 1e4])
@pytest.mark.parametrize("cap", [1, 5])
def test_never_halting_and_halting_at_once_stay_finite(bias: float, cap: int) -> None:
    core = tiny(halting_bias=bias, max_ponder_steps=cap).float()
    x = torch.randn(2, 3, 6, requires_grad=True)
    output = core(x, core.initial_state(2))
    assert output.metrics["ponder_steps"].item() == (cap if bias < 0 else 1)
    (output.y.sum() + output.losses["ponder"]).backward()
    assert x.grad is not None
    assert all(p.grad is None or p.grad.isfinite().all() for p in (x, *core.parameters()))


def test_without_halting_nothing_is_added() -> None:
    core = memory_cores.build("lstm", d_model=6)
    assert list(core.state_dict()) == [f"lstm.{name}" for name in core.lstm.state_dict()]
    assert core.lstm.input_size == 6
    output = core(torch.randn(1, 2, 6), core.initial_state(1))
    assert output.losses == output.metrics == {}


@pytest.mark.parametrize("halting", ["graves", "tensor2tensor"])
def test_bfloat16_autocast(halting: Any) -> None:
    core = tiny(halting=halting, halting_bias=-1e4).float()  # the cap alone halts, so that rounding cannot
    x = torch.randn(2, 6, 6)
    exact = core(x, core.initial_state(2))
    with torch.autocast("cpu", torch.bfloat16):
        first = core(x[:, :3].bfloat16(), core.initial_state(2))
        y, state, losses, _ = core(x[:, 3:], first.state)
        stream = core.stream(2)
        stepped = torch.stack([stream.step(x[:, t]) for t in range(6)], dim=1)
    (y.square().sum() + losses["ponder"]).backward()
    assert all(tensor.dtype == torch.float32 for tensor in state.values())
    torch.testing.assert_close(torch.cat([first.y, y], dim=1), exact.y, rtol=0.05, atol=0.05)
    torch.testing.assert_close(stepped, exact.y, rtol=1e-4, atol=1e-4)
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in core.parameters())
