"""The LSTM core against torch.nn.LSTM stepped by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import memory_cores
from memory_cores.lstm.core import LSTM, gate_biases


def by_hand(
    core: LSTM, x: torch.Tensor, reset: torch.Tensor, state: dict[str, torch.Tensor]
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Every row and step on its own; h and c start from zeros wherever reset is True."""
    rows, states = [], []
    for b in range(len(x)):
        h, c = (state[name][b, :, None] for name in ("h", "c"))
        outputs = []
        for t in range(x.shape[1]):
            if reset[b, t]:
                h, c = torch.zeros_like(h), torch.zeros_like(c)
            y, (h, c) = core.lstm(x[b : b + 1, t : t + 1], (h, c))
            outputs.append(y[0, 0])
        rows.append(torch.stack(outputs))
        states.append((h[:, 0], c[:, 0]))
    h, c = (torch.stack(of_rows) for of_rows in zip(*states, strict=True))
    return torch.stack(rows), {"h": h, "c": c}


@given(seed=st.integers(0, 10**6), rate=st.sampled_from([0.0, 0.03, 0.2, 0.7, 1.0]), layers=st.integers(1, 2))
@torch.no_grad()
def test_equals_torch_stepped_by_hand(seed: int, rate: float, layers: int) -> None:
    torch.manual_seed(seed)
    core = memory_cores.build("lstm", d_model=5, num_layers=layers).double()
    x, reset = torch.randn(3, 20, 5, dtype=torch.float64), torch.rand(3, 20) < rate
    before = {name: torch.randn(3, layers, 5, dtype=torch.float64) for name in ("h", "c")}
    output = core(x, before, reset)
    y, after = by_hand(core, x, reset, before)
    torch.testing.assert_close(output.y, y)
    torch.testing.assert_close(output.state, after)


@given(seed=st.integers(0, 10**6), rate=st.sampled_from([0.0, 0.1, 0.5, 1.0]), layers=st.integers(1, 2))
def test_gradient_with_resets_is_that_of_torch_stepped_by_hand(seed: int, rate: float, layers: int) -> None:
    torch.manual_seed(seed)
    core = memory_cores.build("lstm", d_model=4, num_layers=layers).double()
    state = {name: torch.randn(3, layers, 4, dtype=torch.float64) for name in ("h", "c")}
    x, reset = torch.randn(3, 17, 4, dtype=torch.float64, requires_grad=True), torch.rand(3, 17) < rate
    reset[0, 3] = True
    weight = torch.randn(3, 17, 4, dtype=torch.float64)
    inputs = [x, *core.parameters()]
    y, _ = by_hand(core, x, reset, state)
    expected = torch.autograd.grad((y * weight).sum(), inputs)
    found = torch.autograd.grad((core(x, state, reset).y * weight).sum(), inputs)
    torch.testing.assert_close(found, expected)


def test_forget_gates_start_open() -> None:
    core = memory_cores.build("lstm", d_model=6, num_layers=2)
    for layer in range(2):
        input_bias, hidden_bias = gate_biases(core.lstm, layer)
        assert torch.equal((input_bias + hidden_bias)[1], torch.ones(6))


def test_chrono_initialisation_spreads_the_time_scales() -> None:
    input_bias, hidden_bias = gate_biases(memory_cores.build("lstm", d_model=400, max_dependency=100).lstm, 0)
    bias = input_bias + hidden_bias
    time_scales = bias[1].exp()
    assert torch.equal(bias[0], -bias[1])
    assert time_scales.min() >= 1
    assert time_scales.max() <= 99.001
    assert time_scales.mean().item() == pytest.approx(50, abs=8)
    assert bias[1].max().item() == pytest.approx(math.log(99), abs=0.2)
