"""WaveNet against plain loops over the paper's equations."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import memory_cores
from audio.wavenet import MAX_COMPILED_BATCH, WaveNet

ROOT = Path(__file__).parents[2]


def by_the_paper(core: WaveNet, x: Tensor, reset: Tensor) -> Tensor:
    """x (T, D), reset (T,) -> y (T, D): one row, step by step and tap by tap (1609.03499, equation 2, figure 4).

    The weights of a tap are the block of W that multiplies the input `back` steps before, as far as the episode goes.
    """
    weights = dict(core.named_parameters())
    width, kernel = core.d_model, core.layers.kernel_size
    inputs: list[list[Tensor]] = [[] for _ in core.layers.dilations]  # of each layer since the last reset
    outputs = []
    for t in range(len(x)):
        if reset[t]:
            inputs = [[] for _ in inputs]
        h = x[t]
        skips = weights["skip.bias"]
        for layer, dilation in enumerate(core.layers.dilations):
            inputs[layer].append(h)
            filtered, gate = weights[f"convolutions.{layer}.bias"].split(width)
            for tap in range(kernel):
                back = (kernel - 1 - tap) * dilation
                if back < len(inputs[layer]):
                    matrix = weights[f"convolutions.{layer}.weight"][:, tap * width : (tap + 1) * width]
                    past = inputs[layer][-1 - back]
                    filtered = filtered + matrix[:width] @ past
                    gate = gate + matrix[width:] @ past
            z = torch.tanh(filtered) * torch.sigmoid(gate)
            skips = skips + weights["skip.weight"][:, layer * width : (layer + 1) * width] @ z
            if layer + 1 < len(inputs):
                h = h + weights[f"residuals.{layer}.weight"] @ z
        outputs.append((weights["output.weight"] @ skips.relu() + weights["output.bias"]).relu())
    return torch.stack(outputs)


@given(
    seed=st.integers(0, 10**6),
    options=st.sampled_from(
        [{"num_blocks": 2, "layers_per_block": 3, "d_skip": 5}, {"layers_per_block": 2, "kernel_size": 3}]
    ),
    steps=st.integers(1, 20),
    reset_rate=st.sampled_from([0.0, 0.2, 1.0]),
)
def test_outputs_and_gradients_are_the_paper_s(
    seed: int, options: dict[str, int], steps: int, reset_rate: float
) -> None:
    torch.manual_seed(seed)
    core = memory_cores.build("wavenet", d_model=4, **options).double()
    x = torch.randn(2, steps, 4, dtype=torch.float64, requires_grad=True)
    reset = torch.rand(2, steps) < reset_rate
    weight = torch.randn(2, steps, 4, dtype=torch.float64)
    wanted = [x, *core.parameters()]
    y = core(x, core.initial_state(2), reset).y
    plain = torch.stack([by_the_paper(core, x[row], reset[row]) for row in range(2)])
    torch.testing.assert_close(y, plain, rtol=0, atol=1e-9)
    gradients = torch.autograd.grad((weight * y).sum(), wanted)
    plain_gradients = torch.autograd.grad((weight * plain).sum(), wanted, materialize_grads=True)
    torch.testing.assert_close(gradients, plain_gradients, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("blocks", "layers", "kernel", "field"), [(1, 4, 2, 16), (2, 3, 2, 15), (2, 2, 3, 13)])
def test_gradients_reach_exactly_the_receptive_field(blocks: int, layers: int, kernel: int, field: int) -> None:
    torch.manual_seed(0)
    core = memory_cores.build(
        "wavenet", d_model=8, num_blocks=blocks, layers_per_block=layers, kernel_size=kernel
    ).double()
    assert core.receptive_field == field
    x = torch.randn(1, field + 5, 8, dtype=torch.float64, requires_grad=True)
    core(x, core.initial_state(1)).y[:, -1].sum().backward()
    assert x.grad is not None
    reached = (x.grad[0] != 0).any(dim=1)
    assert reached.tolist() == [False] * 5 + [True] * field


@pytest.mark.parametrize("batch", [2, MAX_COMPILED_BATCH + 1])
def test_compiled_steps_and_torch_s_are_those_of_a_whole_call(batch: int) -> None:
    torch.manual_seed(0)
    core = memory_cores.build("wavenet", d_model=6, num_blocks=2, layers_per_block=3, kernel_size=3, d_skip=7)
    x, reset = torch.randn(batch, 20, 6), torch.rand(batch, 20) < 0.1
    whole = core(x, core.initial_state(batch), reset)
    stream = core.stream(batch)
    assert (stream.compiled is not None) == (batch <= MAX_COMPILED_BATCH)
    stepped = torch.stack([stream.step(x[:, t], reset[:, t]) for t in range(20)], dim=1)
    torch.testing.assert_close(stepped, whole.y, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(stream.state(), whole.state, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_not_even_nan_passes_a_reset() -> None:
    core = memory_cores.build("wavenet", d_model=4, layers_per_block=3)
    x = torch.randn(1, 9, 4)
    x[:, :4] = torch.nan
    reset = torch.zeros(1, 9, dtype=torch.bool)
    reset[:, 4] = True
    output = core(x, core.initial_state(1), reset)
    assert output.y[:, :4].isnan().all()
    assert output.y[:, 4:].isfinite().all()
    assert output.state["queues"].isfinite().all()
    stream = core.stream(1)
    stepped = torch.stack([stream.step(x[:, t], reset[:, t]) for t in range(9)], dim=1)
    torch.testing.assert_close(stepped, output.y, equal_nan=True)


def test_it_is_built_in_any_process_and_brings_in_only_what_it_needs() -> None:
    code = (
        "import sys, memory_cores; core = memory_cores.build('wavenet', d_model=32)\n"
        "print(type(core).__name__, *sorted({'lm', 'agents', 'envs', 'reverie', 'numba', 'librosa'} & {*sys.modules}))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert result.stdout == "WaveNet\n", result.stderr


@pytest.mark.parametrize(
    ("options", "messages"),
    [
        ({"num_blocks": 0, "layers_per_block": "2"}, ["num_blocks is 0", "layers_per_block is '2'"]),
        ({"kernel_size": 1, "d_skip": 0}, ["kernel_size is 1, expected an integer >= 2", "d_skip is 0"]),
        ({"layer_per_block": 3}, ["did you mean 'layers_per_block'?"]),
    ],
)
def test_bad_options_are_reported_together(options: dict[str, Any], messages: list[str]) -> None:
    with pytest.raises(ValueError, match="wavenet") as error:
        memory_cores.build("wavenet", d_model=8, **options)
    for message in messages:
        assert message in str(error.value)
