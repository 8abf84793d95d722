"""What trainers share in going on from a saved state, which may not be what they wrote."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

_KEPT = ("params", "lr")
"""Of an optimizer's groups: a schedule sets the learning rate at every update."""


def count_in(state: Mapping[str, Any], name: str) -> int:
    """A count of a saved state; raises KeyError where it is missing, ValueError where it is none."""
    value = state[name]
    if type(value) is not int or value < 0:
        raise ValueError(f"{name}: expected a count, got {value!r}")
    return value


def load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Continue from the moments of a `state_dict()`, under the options, such as epsilon, of `optimizer` itself.

    Raises ValueError for moments of other parameters or of another kind of optimizer.
    """
    options = [{name: value for name, value in group.items() if name not in _KEPT} for group in optimizer.param_groups]
    optimizer.load_state_dict(dict(state))
    for group, own in zip(optimizer.param_groups, options, strict=True):
        group.update(own)
    expected = {"step", "exp_avg", "exp_avg_sq"} if isinstance(optimizer, torch.optim.Adam) else {"step", "square_avg"}
    for parameter, moments in optimizer.state.items():
        if set(moments) != expected:
            raise ValueError(f"the optimizer has {', '.join(map(str, moments))}, expected {', '.join(expected)}")
        require_shapes(
            {name: moment for name, moment in moments.items() if name != "step"},
            dict.fromkeys(expected - {"step"}, parameter),
            "the optimizer",
        )


def require_shapes(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], where: str) -> None:
    """Raise ValueError, which begins with `where`, unless tensors have the names and shapes of those expected."""
    if set(tensors) != set(expected):
        raise ValueError(f"{where}: has {', '.join(tensors) or 'nothing'}, expected {', '.join(expected)}")
    for name, tensor in expected.items():
        if tensors[name].shape != tensor.shape:
            raise ValueError(f"{where}: {name} has shape {tuple(tensors[name].shape)}, expected {tuple(tensor.shape)}")
