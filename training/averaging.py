"""Exponential moving averages of a model's parameters (Polyak & Juditsky, 1992)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn


def copy_parameters(model: nn.Module) -> dict[str, Tensor]:
    """Copies of the parameters by name."""
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


@torch.no_grad()
def update_average(average: Mapping[str, Tensor], model: nn.Module, decay: float) -> None:
    """Move an average towards the model's parameters, in place: average = decay * average + (1 - decay) * parameter."""
    for name, parameter in model.named_parameters():
        average[name].lerp_(parameter, 1 - decay)


@contextlib.contextmanager
def use_average(model: nn.Module, average: Mapping[str, Tensor] | None) -> Iterator[None]:
    """Give a model the averaged parameters for the time of a `with` block; None leaves it its own."""
    if average is None:
        yield
        return
    own = copy_parameters(model)
    try:
        model.load_state_dict(dict(average), strict=False)
        yield
    finally:
        model.load_state_dict(own, strict=False)


def evaluation_weights(weights: Mapping[str, Tensor], state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights of a checkpoint that evaluation and generation use: averaged, where `state` holds an average."""
    return {**weights, **(state["average"] or {})}
