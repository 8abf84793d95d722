"""The LSTM core against torch.nn.LSTM stepped by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from memory_cores.episodes import cut_at_resets
from memory_cores.lstm import LSTM, gate_biases


def by_hand(core: LSTM, x: torch.Tensor, reset: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Every row and step on its own; h and c start from zeros wherever reset is True."""
    batch, steps, width = x.shape
    y = torch.empty_like(x)
    h, c = (x.new_zeros(core.num_layers, batch, width) for _ in range(2))
    for b in range(batch):
        hb, cb = h[:, b : b + 1].clone(), c[:, b : b + 1].clone()
        for t in range(steps):
            if reset[b, t]:
                hb, cb = torch.zeros_like(hb), torch.zeros_like(cb)
            y[b, t], (hb, cb) = core.lstm(x[b : b + 1, t : t + 1], (hb, cb))
        h[:, b], c[:, b] = hb[:, 0], cb[:, 0]
    return y, {"h": h.transpose(0, 1), "c": c.transpose(0, 1)}


@given(seed=st.integers(0, 10**6), rate=st.sampled_from([0.0, 0.2, 0.7, 1.0]), layers=st.integers(1, 2))
@torch.no_grad()
def test_equals_torch_stepped_by_hand(seed: int, rate: float, layers: int) -> None:
    torch.manual_seed(seed)
    core = LSTM(d_model=5, num_layers=layers).double()
    x, reset = torch.randn(3, 8, 5, dtype=torch.float64), torch.rand(3, 8) < rate
    output = core(x, core.initial_state(3), reset)
    y, state = by_hand(core, x, reset)
    torch.testing.assert_close(output.y, y)
    torch.testing.assert_close(output.state, state)


@given(st.data())
def test_pieces_cover_every_step_once(data: st.DataObject) -> None:
    batch, steps = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 9))
    flags = data.draw(st.lists(st.booleans(), min_size=batch * steps, max_size=batch * steps))
    reset = torch.tensor(flags).view(batch, steps)
    pieces = cut_at_resets(reset)
    x = torch.arange(batch * steps).view(batch, steps, 1).double()
    packed = pieces.pack(x)
    assert packed.data.shape[0] == batch * steps == int(pieces.batch_sizes.sum())
    assert torch.equal(pieces.unpack(packed, steps), x)
    assert len(pieces.row) == batch + int(reset[:, 1:].sum())
    assert int(pieces.continues.sum()) == batch - int(reset[:, 0].sum())


def test_forget_gates_start_open() -> None:
    core = LSTM(d_model=6, num_layers=2)
    for layer in range(2):
        input_bias, hidden_bias = gate_biases(core.lstm, layer)
        assert torch.equal((input_bias + hidden_bias)[1], torch.ones(6))


def test_chrono_initialisation_spreads_the_time_scales() -> None:
    input_bias, hidden_bias = gate_biases(LSTM(d_model=400, max_dependency=100).lstm, 0)
    bias = input_bias + hidden_bias
    time_scales = bias[1].exp()
    assert torch.equal(bias[0], -bias[1])
    assert time_scales.min() >= 1
    assert time_scales.max() <= 99.001
    assert time_scales.mean().item() == pytest.approx(50, abs=8)
    assert bias[1].max().item() == pytest.approx(math.log(99), abs=0.2)
