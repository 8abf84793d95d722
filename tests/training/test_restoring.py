"""States that are not what a trainer wrote are refused, and options come from the configuration."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from training.restoring import count_in, load_optimizer, require_shapes


def optimizer(kind: type[torch.optim.Optimizer] = torch.optim.Adam, **options: Any) -> torch.optim.Optimizer:
    weight = torch.nn.Parameter(torch.ones(2, 3))
    made = kind([weight], lr=0.1, **options)  # type: ignore[call-arg]
    weight.grad = torch.ones(2, 3)
    made.step()
    return made


def test_moments_are_continued_under_the_options_of_now() -> None:
    before, now = optimizer(eps=1e-8), optimizer(eps=1e-3, weight_decay=0.5)
    before.param_groups[0]["lr"] = 0.7
    load_optimizer(now, before.state_dict())
    (group,) = now.param_groups
    assert (group["eps"], group["weight_decay"], group["lr"]) == (1e-3, 0.5, 0.7)
    (moments,) = now.state.values()
    assert torch.equal(moments["exp_avg"], next(iter(before.state.values()))["exp_avg"])


def test_moments_of_another_shape_or_kind_are_refused() -> None:
    state = optimizer().state_dict()
    state["state"][0]["exp_avg"] = torch.zeros(5)
    with pytest.raises(ValueError, match=r"exp_avg has shape \(5,\), expected \(2, 3\)"):
        load_optimizer(optimizer(), state)
    with pytest.raises(ValueError, match=r"the optimizer has step, square_avg, expected"):
        load_optimizer(optimizer(), optimizer(torch.optim.RMSprop).state_dict())


@pytest.mark.parametrize("value", ["3", -1, 2.0, None, True])
def test_a_count_is_a_count(value: Any) -> None:
    with pytest.raises(ValueError, match="steps: expected a count"):
        count_in({"steps": value}, "steps")


def test_tensors_are_those_expected() -> None:
    require_shapes({"a": torch.zeros(2)}, {"a": torch.ones(2)}, "the memory")
    with pytest.raises(ValueError, match="the memory: has nothing, expected a"):
        require_shapes({}, {"a": torch.ones(2)}, "the memory")
