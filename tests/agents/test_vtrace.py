"""V-trace against the sums of the paper, written out."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from agents.vtrace import vtrace


def double_loop(
    log_ratios: Tensor,
    discounts: Tensor,
    rewards: Tensor,
    values: Tensor,
    bootstrap_value: Tensor,
    rho_bar: float,
    c_bar: float,
    trace_decay: float,
) -> Tensor:
    """v_s = V(x_s) + sum_t (prod_{i<t} gamma_i c_i) delta_t, equation 1 of the paper, by its two sums."""
    rows, length = rewards.shape
    targets = values.clone()
    for b in range(rows):
        v = [*values[b].tolist(), bootstrap_value[b].item()]
        for s in range(length):
            for t in range(s, length):
                product = 1.0
                for i in range(s, t):
                    c = trace_decay * min(c_bar, math.exp(log_ratios[b, i].item()))
                    product *= discounts[b, i].item() * c
                rho = min(rho_bar, math.exp(log_ratios[b, t].item()))
                delta = rho * (rewards[b, t].item() + discounts[b, t].item() * v[t + 1] - v[t])
                targets[b, s] += product * delta
    return targets


def draw(seed: int, rows: int, length: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    ended = torch.rand(rows, length, generator=generator) < 0.2
    return {
        "log_ratios": normal(rows, length),
        "discounts": 0.97 * (~ended).double(),
        "rewards": normal(rows, length),
        "values": normal(rows, length),
        "bootstrap_value": normal(rows),
    }


@given(
    seed=st.integers(0, 2**31),
    rows=st.integers(1, 3),
    length=st.integers(1, 12),
    c_bar=st.floats(0.1, 3),
    rho_above_c=st.floats(0, 3),
    trace_decay=st.floats(0, 1),
)
def test_equals_the_double_loop(
    seed: int, rows: int, length: int, c_bar: float, rho_above_c: float, trace_decay: float
) -> None:
    data = draw(seed, rows, length)
    bounds = {"rho_bar": c_bar + rho_above_c, "c_bar": c_bar, "trace_decay": trace_decay}
    result = vtrace(**data, valid=torch.ones(rows, length, dtype=torch.bool), **bounds)
    expected = double_loop(**data, **bounds)
    torch.testing.assert_close(result.values, expected, rtol=0, atol=1e-10)
    next_targets = torch.cat([expected[:, 1:], data["bootstrap_value"][:, None]], dim=1)
    rhos = data["log_ratios"].exp().clamp(max=bounds["rho_bar"])
    advantages = rhos * (data["rewards"] + data["discounts"] * next_targets - data["values"])
    torch.testing.assert_close(result.advantages, advantages, rtol=0, atol=1e-10)


def test_on_policy_is_the_n_step_bellman_target() -> None:
    data = draw(3, 4, 9)
    data["log_ratios"] = torch.zeros_like(data["log_ratios"])
    result = vtrace(**data, valid=torch.ones(4, 9, dtype=torch.bool))
    target = data["bootstrap_value"]
    for t in reversed(range(9)):
        target = data["rewards"][:, t] + data["discounts"][:, t] * target
        torch.testing.assert_close(result.values[:, t], target, rtol=0, atol=1e-12)


def test_exact_values_stay_exact() -> None:
    """Reward 1 for ever at gamma 0.9: every value is 10, and no target may move off it, the last included."""
    values = torch.full((1, 5), 10.0, dtype=torch.float64)
    result = vtrace(
        log_ratios=torch.zeros(1, 5, dtype=torch.float64),
        discounts=torch.full((1, 5), 0.9, dtype=torch.float64),
        rewards=torch.ones(1, 5, dtype=torch.float64),
        values=values,
        bootstrap_value=torch.tensor([10.0], dtype=torch.float64),
        valid=torch.ones(1, 5, dtype=torch.bool),
    )
    torch.testing.assert_close(result.values, values)
    torch.testing.assert_close(result.advantages, torch.zeros_like(values), rtol=0, atol=1e-12)


@given(seed=st.integers(0, 2**31), first=st.integers(1, 6), second=st.integers(1, 6))
def test_a_truncation_inside_equals_its_pieces_apart(seed: int, first: int, second: int) -> None:
    """An episode cut by a time limit, its final observation, and the next episode: two unrolls in one row."""
    head, tail = draw(seed, 2, first), draw(seed + 1, 2, second)
    sequences = ("log_ratios", "discounts", "rewards", "values")
    bridge = {name: torch.full((2, 1), 0.7, dtype=torch.float64) for name in sequences}
    bridge["values"] = head["bootstrap_value"][:, None]
    joined = {name: torch.cat([head[name], bridge[name], tail[name]], dim=1) for name in sequences}
    valid = torch.ones(2, first + 1 + second, dtype=torch.bool)
    valid[:, first] = False
    whole = vtrace(**joined, bootstrap_value=tail["bootstrap_value"], valid=valid)
    pieces = [vtrace(**piece, valid=torch.ones_like(piece["rewards"]).bool()) for piece in (head, tail)]
    for name in ("values", "advantages", "rhos"):
        got = getattr(whole, name)
        torch.testing.assert_close(got[:, :first], getattr(pieces[0], name))
        torch.testing.assert_close(got[:, first + 1 :], getattr(pieces[1], name))
    torch.testing.assert_close(whole.values[:, first], head["bootstrap_value"])
    assert (whole.advantages[:, first] == 0).all()


@pytest.mark.parametrize("log_ratio", [500.0, -500.0])
def test_a_ratio_beyond_the_range_of_floats_stays_finite(log_ratio: float) -> None:
    ones = torch.ones(1, 3)
    result = vtrace(log_ratio * ones, 0.9 * ones, ones, ones, torch.ones(1), ones.bool())
    for tensor in result:
        assert torch.isfinite(tensor).all()
