"""A CUDA device computes what the CPU does: every core, every set of options, calls and steps."""

from __future__ import annotations

import copy

import pytest
import torch

import memory_cores
from memory_cores.testing import Case, inputs
from tests.memory_cores.test_laws import D_MODEL, OPTIONS

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

SETS = [(name, options) for name, sets in OPTIONS.items() for options in sets]
CLOSE = {"rtol": 1e-6, "atol": 1e-9}


@pytest.mark.parametrize(("name", "options"), SETS, ids=lambda value: value if isinstance(value, str) else "")
def test_calls_steps_and_gradients_agree(name: str, options: dict[str, object]) -> None:
    torch.manual_seed(0)
    case = Case(seed=1, batch=3, past=0, lengths=(7, 5, 9), reset_rate=0.1)
    here = memory_cores.build(name, d_model=D_MODEL, **options).double()
    there = copy.deepcopy(here).to("cuda")
    x, reset = inputs(here, case, case.steps)
    here_state, there_state = here.initial_state(3), there.initial_state(3)
    stream = there.stream(3)
    start = 0
    for length in case.lengths:
        part = slice(start, start + length)
        stepped = [stream.step(x[:, t].cuda(), reset[:, t].cuda()) for t in range(start, start + length)]
        here_output = here(x[:, part], here_state, reset[:, part])
        there_output = there(x[:, part].cuda(), there_state, reset[:, part].cuda())
        here_state, there_state = here_output.state, there_output.state
        assert there_output.y.device.type == "cuda"
        assert all(tensor.device.type == "cuda" for tensor in there_state.values())
        torch.testing.assert_close(there_output.y.cpu(), here_output.y, **CLOSE)
        torch.testing.assert_close(torch.stack(stepped, 1).cpu(), here_output.y, **CLOSE)
        for output in (here_output, there_output):
            (output.y.square().sum() + sum(output.losses.values(), torch.zeros_like(output.y.sum()))).backward()
        start += length
    for (parameter, ours), other in zip(here.named_parameters(), there.parameters(), strict=True):
        if ours.grad is not None:
            assert other.grad is not None, parameter
            torch.testing.assert_close(other.grad.cpu(), ours.grad, msg=parameter, **CLOSE)
