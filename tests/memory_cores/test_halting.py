"""Adaptive computation time: weights, ponder loss and metrics."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from memory_cores.layers.halting import HaltingProgress, HaltingUnit, accumulate, output_with_ponder_loss, share_ranges
from tests.memory_cores import plain_act

EXACT = {"rtol": 1e-12, "atol": 1e-12}


def weigh(probabilities: Tensor, *, cap: int, epsilon: float = 0.01) -> tuple[Tensor, HaltingProgress]:
    """The weights (B, N) of probabilities (B, M) and what came of them."""
    pondering = HaltingProgress(probabilities.shape[:1], probabilities, max_steps=cap, epsilon=epsilon)
    columns = []
    while pondering.running.any():
        columns.append(pondering.weigh(probabilities[:, len(columns)]))
    return torch.stack(columns, dim=1), pondering


@pytest.mark.parametrize(
    ("probabilities", "expected", "steps", "remainder"),
    [
        ([0.5, 0.3, 0.7, 0.9], [0.5, 0.3, 0.2, 0.0], 3, 0.2),
        ([0.995, 0.1, 0.1, 0.1], [1.0, 0.0, 0.0, 0.0], 1, 1.0),
        ([0.99, 0.1, 0.1, 0.1], [1.0, 0.0, 0.0, 0.0], 1, 1.0),
        ([0.6, 0.395, 0.1, 0.1], [0.6, 0.4, 0.0, 0.0], 2, 0.4),
        ([0.1, 0.1, 0.1, 0.1], [0.1, 0.1, 0.1, 0.7], 4, 0.7),
        ([0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0], 4, 1.0),
    ],
)
def test_worked_examples(probabilities: list[float], expected: list[float], steps: int, remainder: float) -> None:
    slow = [0.0] * 4  # keeps the batch running to the cap
    actual, pondering = weigh(torch.tensor([probabilities, slow], dtype=torch.float64), cap=4)
    torch.testing.assert_close(actual[0], torch.tensor(expected, dtype=torch.float64), **EXACT)
    assert pondering.steps[0] == steps
    assert pondering.remainder[0].item() == pytest.approx(remainder)


@given(data=st.data(), cap=st.integers(1, 7), epsilon=st.sampled_from([0.001, 0.01, 0.3, 0.9]))
def test_weights_sum_to_one_and_equal_the_plain_ones(data: st.DataObject, cap: int, epsilon: float) -> None:
    rows = st.lists(st.floats(0, 1), min_size=cap, max_size=cap)
    probabilities = torch.tensor(data.draw(st.lists(rows, min_size=1, max_size=4)), dtype=torch.float64)
    actual, pondering = weigh(probabilities, cap=cap, epsilon=epsilon)
    single, _ = weigh(probabilities.float(), cap=cap, epsilon=epsilon)
    assert (single.sum(dim=1) - 1).abs().max() < 1e-6
    assert not pondering.running.any()
    for row in range(len(probabilities)):
        expected, steps, remainder = plain_act.weights(list(probabilities[row]), cap=cap, epsilon=epsilon)
        filled = torch.zeros_like(actual[row])
        filled[:steps] = torch.stack(expected)
        torch.testing.assert_close(actual[row], filled, **EXACT)
        assert pondering.steps[row] == steps
        torch.testing.assert_close(pondering.remainder[row], remainder, **EXACT)


def test_interpolation_shares_out_less_than_one() -> None:
    """What is left is the product of all 1 - p: the reason why the sum of Graves is the default."""
    weights, _ = weigh(torch.tensor([[0.4, 0.3, 0.9]], dtype=torch.float64), cap=3)
    result = torch.zeros(1, 1, dtype=torch.float64)
    for weight in weights.unbind(dim=1):
        result = accumulate("tensor2tensor", result, torch.ones_like(result), weight)
    assert result.item() == pytest.approx(1 - 0.6 * 0.7 * 0.7)


def test_ponder_gradient_passes_through_the_remainder_alone() -> None:
    probabilities = torch.tensor([[0.3, 0.4, 0.6, 0.2], [0.2, 0.2, 0.2, 0.2]], dtype=torch.float64, requires_grad=True)
    _, pondering = weigh(probabilities, cap=4)
    output = output_with_ponder_loss(
        torch.zeros(1), {}, pondering.steps, pondering.remainder, ponder_cost=0.5, max_steps=4
    )
    assert output.losses["ponder"].item() == pytest.approx(0.5 * ((3 + 0.3) + (4 + 0.4)) / 2)
    output.losses["ponder"].backward()
    expected = [[-0.25, -0.25, 0.0, 0.0], [-0.25, -0.25, -0.25, 0.0]]
    torch.testing.assert_close(probabilities.grad, torch.tensor(expected, dtype=torch.float64))


def test_metrics_are_the_mean_and_the_shares() -> None:
    steps = torch.tensor([[1, 2, 2], [3, 5, 9]])
    metrics = output_with_ponder_loss(
        torch.zeros(1), {}, steps, torch.zeros(2, 3), ponder_cost=0.0, max_steps=12
    ).metrics
    expected = {"1": 1 / 6, "2": 2 / 6, "3_to_4": 1 / 6, "5_to_8": 1 / 6, "9_to_12": 1 / 6}
    assert metrics.pop("ponder_steps").item() == pytest.approx(22 / 6)
    assert {name: value.item() for name, value in metrics.items()} == pytest.approx(
        {f"ponder_share_{name}": share for name, share in expected.items()}
    )


@given(cap=st.integers(1, 1000))
def test_shares_cover_every_number_of_steps_once(cap: int) -> None:
    ranges = share_ranges(cap)
    assert [n for first, last in ranges for n in range(first, last + 1)] == list(range(1, cap + 1))
    assert len(ranges) <= 11


def test_halting_is_decided_in_full_precision() -> None:
    unit = HaltingUnit(6, bias=1.0)
    s = torch.randn(3, 6)
    with torch.autocast("cpu", torch.bfloat16):
        h = unit(s)
    torch.testing.assert_close(h, torch.sigmoid(s @ unit.weight[0] + unit.bias), rtol=1e-6, atol=1e-6)
