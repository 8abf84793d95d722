"""Building cores by name."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

import memory_cores

PARAMETERS = Path(__file__).with_name("parameters.json")


def parameter_shapes() -> dict[str, dict[str, list[int]]]:
    """The names and shapes of the parameters of every core at width 8 with its defaults."""
    with torch.device("meta"):
        cores = {name: memory_cores.build(name, d_model=8) for name in memory_cores.names()}
    return {name: {key: list(t.shape) for key, t in core.state_dict().items()} for name, core in cores.items()}


def test_parameters_are_those_that_checkpoints_hold() -> None:
    """A rename breaks every saved checkpoint. If that is meant, or a core is new, write the file anew with

    python -m tests.memory_cores.test_registry
    """
    assert parameter_shapes() == json.loads(PARAMETERS.read_text())


@pytest.mark.parametrize("name", memory_cores.names())
def test_a_core_is_built_from_its_name_alone(name: str) -> None:
    core = memory_cores.build(name, d_model=32)
    assert core.d_model == 32
    x = torch.randn(2, 3, 32)
    assert core(x, core.initial_state(2)).y.shape == x.shape


@pytest.mark.parametrize("name", memory_cores.names())
def test_autocast_changes_precision_and_not_the_state(name: str) -> None:
    core = memory_cores.build(name, d_model=16)
    x = torch.randn(2, 4, 16)
    reset = torch.tensor([[False, False, True, False], [False] * 4])
    exact = core(x, core.initial_state(2), reset)
    with torch.autocast("cpu", torch.bfloat16):
        stream = core.stream(2)
        stepped = torch.stack([stream.step(x[:, t].bfloat16(), reset[:, t]) for t in range(4)], dim=1)
        mixed = core(x.bfloat16(), core.initial_state(2), reset)
        output = core(x, mixed.state)
        sum(output.losses.values(), output.y.float().sum()).backward()
    assert {k: v.dtype for k, v in mixed.state.items()} == {k: v.dtype for k, v in exact.state.items()}
    for y in (mixed.y.float(), stepped.float()):
        if name in ("reformer", "routing"):  # a few steps may fall into another bucket or cluster
            assert (y - exact.y).abs().median() < 0.02
        else:
            torch.testing.assert_close(y, exact.y, rtol=0.05, atol=0.05)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in core.parameters())


@pytest.mark.parametrize("name", memory_cores.names())
def test_construction_on_the_meta_device_takes_no_memory(name: str) -> None:
    with torch.device("meta"):
        core = memory_cores.build(name, d_model=4096)
    assert all(parameter.is_meta for parameter in core.parameters())


@pytest.mark.parametrize("name", memory_cores.names())
def test_options_are_typed_and_have_defaults(name: str) -> None:
    for option in memory_cores.options(name).values():
        assert option.default is not dataclasses.MISSING
        assert not isinstance(option.annotation, str)


@pytest.mark.parametrize("name", memory_cores.names())
def test_every_option_has_its_sentence(name: str) -> None:
    for option, (_, _, sentence) in memory_cores.options(name).items():
        assert len(sentence.split()) >= 6, f"{name}: {option}"
        assert sentence.endswith("."), f"{name}: {option}"


def test_options_of_transformer_xl() -> None:
    options = memory_cores.options("transformer_xl")
    assert options["memory_length"].annotation is int
    assert get_args(options["block"].annotation) == ("post", "pre", "trxl_i", "gtrxl")
    assert options["d_ff"].default is None


@pytest.mark.parametrize("name", memory_cores.names())
def test_description_is_one_full_line(name: str) -> None:
    assert memory_cores.describe(name).endswith(".")


@pytest.mark.parametrize(
    ("name", "options", "messages"),
    [
        ("lsmt", {}, ["no core 'lsmt', did you mean 'lstm'?"]),
        ("qqq", {}, ["no core 'qqq', expected one of", "feedforward"]),
        ("lstm", {"num_layer": 2}, ["core 'lstm' has no option 'num_layer', did you mean 'num_layers'?"]),
        ("lstm", {"self": 2}, ["core 'lstm' has no option 'self'"]),
        ("lstm", {"num_layers": 0, "max_dependency": 1}, ["num_layers is 0", "max_dependency is 1"]),
        ("feedforward", {"d_ff": True}, ["d_ff is True, expected an integer >= 1"]),
        ("transformer_xl", {"num_heads": 3}, ["d_model is 32, expected a multiple of num_heads, 3"]),
        ("transformer_xl", {"num_heads": 32, "positions": "rotary"}, ["even d_model / num_heads"]),
        (
            "transformer_xl",
            {"num_layers": "2", "num_heads": 0, "memory_length": -1, "block": "batch", "dropout": 1.0},
            [
                "num_layers is '2'",
                "num_heads is 0",
                "memory_length is -1",
                "block is 'batch'",
                "dropout is 1.0",
            ],
        ),
        (
            "compressive",
            {"compression_rate": 3, "granularity": 4, "compressed_length": 0, "num_heads": 3, "compression": "most"},
            [
                "compressed_length is 0",
                "granularity is 4, expected a multiple of compression_rate, 3",
                "num_heads, 3",
                "compression is 'most', expected one of max, mean, conv, dilated_conv, most_used",
            ],
        ),
        (
            "compressive",
            {"compression": "most_used", "memory_length": 0, "compression_loss": "bptt"},
            ["compression_loss is 'bptt', expected None: most_used has no weights", "memory_length is 0"],
        ),
        (
            "compressive",
            {"compression_loss": "mse", "compression_rate": 0, "granularity": 0},
            ["compression_rate is 0", "granularity is 0", "compression_loss is 'mse', expected one of bptt, auto"],
        ),
        (
            "universal",
            {"max_ponder_steps": 0, "halting_epsilon": 1, "ponder_cost": -0.1, "num_heads": 3, "convolution_width": 0}
            | {"halting": "act", "halting_bias": float("nan"), "transition": "conv", "depth_signal": "none"},
            [
                "max_ponder_steps is 0, expected an integer >= 1",
                "halting_epsilon is 1, expected a number in (0, 1)",
                "ponder_cost is -0.1, expected a number >= 0",
                "expected a multiple of num_heads, 3",
                "convolution_width is 0, expected an integer >= 1",
                "halting is 'act', expected one of none, graves, tensor2tensor",
                "halting_bias is nan, expected a number",
                "transition is 'conv', expected one of mlp, convolution",
                "depth_signal is 'none', expected one of sinusoid, learned",
            ],
        ),
        (
            "lstm",
            {"num_layers": 0, "max_ponder_steps": 0, "halting_epsilon": "0.1", "ponder_cost": None},
            ["num_layers is 0", "max_ponder_steps is 0", "halting_epsilon is '0.1'", "ponder_cost is None"],
        ),
    ],
)
def test_bad_options_are_reported_together(name: str, options: dict[str, Any], messages: list[str]) -> None:
    with pytest.raises(ValueError, match="core") as error:
        memory_cores.build(name, d_model=32, **options)
    for message in messages:
        assert message in str(error.value)


def test_odd_width_with_relative_positions() -> None:
    with pytest.raises(ValueError, match="d_model is 9, expected an even number"):
        memory_cores.build("transformer_xl", d_model=9, num_heads=3)


if __name__ == "__main__":
    PARAMETERS.write_text(json.dumps(parameter_shapes(), indent=1) + "\n")
