"""The Evolved Transformer against plain loops over cells, sublayers and steps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import memory_cores
from memory_cores.evolved.core import Evolved, EvolvedOptions
from tests.memory_cores.plain_evolved import plain_stream

EXACT = {"rtol": 1e-9, "atol": 1e-9}


def tiny(seed: int = 0, **options: Any) -> Evolved:
    """A float64 core of width 8 with 2 and 4 heads, every parameter moved off its initial value."""
    torch.manual_seed(seed)
    small = {"d_model": 8, "num_layers": 2, "num_heads": 2, "d_ff": 6, "memory_length": 3}
    core = memory_cores.build("evolved", **{**small, **options}).double()
    assert isinstance(core, Evolved)
    with torch.no_grad():
        for parameter in core.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return core


def sample(batch: int, steps: int, reset_rate: float = 0.0, d_model: int = 8) -> tuple[Tensor, Tensor]:
    return torch.randn(batch, steps, d_model, dtype=torch.float64), torch.rand(batch, steps) < reset_rate


@pytest.mark.parametrize(
    "options",
    [
        {"positions": "relative"},
        {"positions": "relative", "memory_length": 2, "granularity": 4, "num_heads": 1},
        {"positions": "rotary", "memory_length": 4, "granularity": 3},
        {"positions": "none", "memory_length": 0, "num_layers": 1},
        {"positions": "none", "d_model": 17, "num_heads": 17, "num_layers": 1},
    ],
    ids=lambda options: "-".join(str(value) for value in options.values()),
)
def test_equals_the_plain_loops(options: dict[str, Any]) -> None:
    core = tiny(**options)
    x, reset = sample(2, 13, d_model=core.d_model)
    reset[0, 5] = True  # in the other row the convolutions look back as far as they can
    output = core(x, core.initial_state(2), reset)
    plain = [plain_stream(core, x[row], reset[row], options.get("num_heads", 2)) for row in range(2)]
    y = torch.stack([row.y for row in plain])
    torch.testing.assert_close(output.y, y, **EXACT)
    for row, stream in enumerate(plain):
        age = 13 - max((t for t in range(13) if reset[row, t]), default=0)
        lists = {"memory": stream.inputs, "branch_inputs": stream.branches, "join_inputs": stream.joined}
        for name, layers in lists.items():
            held = output.state[name][row]
            kept = min(age, held.shape[1])
            for layer, inputs in enumerate(layers):
                torch.testing.assert_close(held[layer, held.shape[1] - kept :], inputs[13 - kept :], **EXACT)
                assert (held[layer, : held.shape[1] - kept] == 0).all()

    names, parameters = zip(*core.named_parameters(), strict=True)
    actual = torch.autograd.grad(output.y.sin().sum(), parameters)
    expected = torch.autograd.grad(y.sin().sum(), parameters)
    for name, one, two in zip(names, actual, expected, strict=True):
        torch.testing.assert_close(one, two, **EXACT, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize(("num_heads", "first"), [(1, 2), (4, 8), (8, 16), (12, 16), (16, 16), (17, 17), (32, 32)])
def test_the_first_attention_has_doubled_heads_up_to_sixteen(num_heads: int, first: int) -> None:
    assert EvolvedOptions(num_heads=num_heads).first_heads == first


@torch.no_grad()
def test_convolutions_alone_reach_sixteen_steps_back() -> None:
    """The branches read 10 earlier steps, the convolution of their sum 6; nothing else looks back without attention."""
    core = tiny(num_layers=1, positions="none")
    for first, second in core.cells:
        for block in (first, second):
            block.attention.output.weight.zero_()
    x, _ = sample(1, 30)
    changed = x.clone()
    changed[:, 5] = torch.randn(8)
    difference = (core(changed, core.initial_state(1)).y - core(x, core.initial_state(1)).y).abs().amax(dim=-1)[0]
    assert (difference > 1e-9).nonzero()[:, 0].tolist() == list(range(5, 22))


@pytest.mark.parametrize("positions", ["relative", "rotary"])
@torch.no_grad()
def test_the_memory_may_be_longer_than_in_training(positions: str) -> None:
    short, long = tiny(positions=positions), tiny(seed=1, positions=positions, memory_length=7, granularity=2)
    long.load_state_dict(short.state_dict())
    x, reset = sample(1, 10)
    y = long(x, long.initial_state(1), reset).y
    torch.testing.assert_close(y[0], plain_stream(long, x[0], reset[0], num_heads=2).y, **EXACT)


@torch.no_grad()
def test_a_step_does_not_call_forward() -> None:
    core = tiny(granularity=2)
    stream = core.stream(2)
    x, _ = sample(2, 12)
    y = core(x, core.initial_state(2)).y
    core.forward = None  # type: ignore[assignment]
    torch.testing.assert_close(torch.stack([stream.step(x[:, t]) for t in range(12)], dim=1), y, **EXACT)


def test_dropout_acts_in_training_only() -> None:
    core = tiny(dropout=0.5)
    x, _ = sample(1, 5)
    state = core.initial_state(1)
    assert not torch.equal(core(x, state).y, core(x, state).y)
    core.eval()
    assert torch.equal(core(x, state).y, core(x, state).y)


def test_inference_mode_does_not_leak_into_training() -> None:
    core = tiny().float()
    with torch.inference_mode():
        stream = core.stream(2)
        for _ in range(20):
            stream.step(torch.randn(2, 8), torch.tensor([True, False]))
        state = stream.state()
    stream.step(torch.randn(2, 8), torch.tensor([True, False]))
    core(torch.randn(2, 3, 8), state).y.sum().backward()
    assert core.content_bias.grad is not None


def test_bad_calls_are_named() -> None:
    core = tiny(granularity=3)
    x, _ = sample(2, 5)
    state = core.initial_state(2)
    for change, message in (
        ({"phase": torch.tensor([0, 1])}, r"share a phase.*\[0, 1\]"),
        ({"join_inputs": state["join_inputs"][:, :, :5]}, r"state\['join_inputs'\] is torch.float64 \(2, 2, 5, 16\)"),
        ({"branch_inputs": state["branch_inputs"].float()}, r"state\['branch_inputs'\] is torch.float32"),
    ):
        with pytest.raises(ValueError, match=message):
            core(x, {**state, **change})
        with pytest.raises(ValueError, match=message):
            core.stream(2).load({**state, **change})
    with pytest.raises(ValueError, match=r"x has shape \(2, 5, 7\), expected \(batch, steps >= 1, 8\)"):
        core(x[..., :7], state)
    with pytest.raises(ValueError, match=r"reset is torch.float32 \(2,\), expected torch.bool \(2,\)"):
        core.stream(2).step(x[:, 0], torch.zeros(2))


@pytest.mark.parametrize(
    ("d_model", "options", "messages"),
    [
        (
            8,
            {"num_layers": 0, "num_heads": 2.0, "d_ff": 0, "memory_length": -1, "granularity": True}
            | {"positions": "absolute", "dropout": 1},
            [
                "num_layers is 0, expected an integer >= 1",
                "num_heads is 2.0, expected an integer >= 1",
                "d_ff is 0, expected an integer >= 1",
                "memory_length is -1, expected an integer >= 0",
                "granularity is True, expected an integer >= 1",
                "positions is 'absolute', expected one of relative, rotary, none",
                "dropout is 1, expected a number in [0, 1)",
            ],
        ),
        (0, {"granularity": 0}, ["d_model is 0, expected an integer >= 1", "granularity is 0"]),
        (
            8,
            {"num_heads": 3, "num_layers": -1},
            ["d_model is 8, expected a multiple of num_heads, 3", "num_layers is -1"],
        ),
        (
            12,
            {"num_heads": 4, "d_ff": -3},
            [
                "d_model is 12, expected a multiple of the 8 heads, which the first attention of a cell has where "
                "num_heads is 4",
                "d_ff is -3",
            ],
        ),
        (24, {"num_heads": 12}, ["d_model is 24, expected a multiple of the 16 heads"]),
        (8, {"num_heads": 4, "positions": "rotary"}, ["d_model is 8, expected heads of an even width", "the 8 heads"]),
        (8, {"num_heads": 8, "positions": "rotary"}, ["d_model is 8, expected an even d_model / num_heads for rotary"]),
        (17, {"num_heads": 17}, ["d_model is 17, expected an even number for relative positions"]),
        (8, {"block": "gtrxl"}, ["core 'evolved' has no option 'block'"]),
    ],
)
def test_bad_options_are_reported_together(d_model: int, options: dict[str, Any], messages: list[str]) -> None:
    with pytest.raises(ValueError, match="core 'evolved'") as error:
        memory_cores.build("evolved", d_model=d_model, **options)
    for message in messages:
        assert message in str(error.value)
