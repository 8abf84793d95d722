"""Gradients that optimizers may scale in place."""

from __future__ import annotations

import pytest
import torch

import memory_cores
from tests.agents.conftest import SMALL_CORES


@pytest.mark.parametrize("core", memory_cores.names())
@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_no_two_parameters_share_the_memory_of_their_gradients(core: str, rate: float) -> None:
    # Clipping scales each gradient in place: one that two parameters share would be scaled twice.
    built = memory_cores.build(core, d_model=16, **SMALL_CORES.get(core, {}))
    reset = torch.rand(3, 24, generator=torch.Generator().manual_seed(0)) < rate
    output = built(torch.randn(3, 24, 16), built.initial_state(3), reset)
    sum(output.losses.values(), output.y.square().mean()).backward()
    places = [
        parameter.grad.untyped_storage().data_ptr() for parameter in built.parameters() if parameter.grad is not None
    ]
    assert places
    assert len(set(places)) == len(places)
