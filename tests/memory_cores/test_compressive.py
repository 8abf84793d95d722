"""The Compressive Transformer against its algorithms and its memory schedule written as plain loops."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import memory_cores
from memory_cores.compressive.core import Compressive
from tests.memory_cores.plain_compressive import PlainLayer, plain_segments, plain_stream

COMPRESSIONS = ("max", "mean", "conv", "dilated_conv", "most_used")
EXACT = {"rtol": 1e-9, "atol": 1e-9}


def tiny(seed: int = 0, **options: Any) -> Compressive:
    """A float64 core of width 8 with 2 heads, every parameter moved off its initial value."""
    torch.manual_seed(seed)
    small = {"d_model": 8, "num_layers": 2, "num_heads": 2, "d_ff": 6, "compression_rate": 2, "compressed_length": 3}
    core = memory_cores.build("compressive", **{**small, **options}).double()
    with torch.no_grad():
        for parameter in core.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return core


def sample(batch: int, steps: int, reset_rate: float = 0.0) -> tuple[Tensor, Tensor]:
    return torch.randn(batch, steps, 8, dtype=torch.float64), torch.rand(batch, steps) < reset_rate


@pytest.mark.parametrize(
    ("compression", "loss", "block"),
    [
        ("conv", "attention_reconstruction", "post"),
        ("conv", "attention_reconstruction", "gtrxl"),
        ("dilated_conv", "attention_reconstruction", "trxl_i"),
        ("conv", "auto_encoding", "post"),
        ("dilated_conv", "auto_encoding", "gtrxl"),
    ],
)
def test_aligned_segments_are_the_algorithms_of_the_paper(compression: Any, loss: Any, block: Any) -> None:
    core = tiny(
        compression=compression,
        compression_loss=loss,
        block=block,
        memory_length=4,
        granularity=4,
        compressed_length=3,
    )
    x, _ = sample(1, 20)
    segments = list(x[0].split(4))
    expected, expected_losses = plain_segments(core, segments)
    state, outputs, losses = core.initial_state(1), [], []
    for segment in segments:
        y, state, named, _ = core(segment[None], state)
        outputs.append(y[0])
        losses.append(named[loss])
    for segment, (y, expected_y) in enumerate(zip(outputs, expected, strict=True)):
        torch.testing.assert_close(y, expected_y, **EXACT, msg=lambda m, s=segment: f"segment {s}: {m}")
    torch.testing.assert_close(losses, expected_losses, **EXACT)
    assert [value.item() > 0 for value in losses] == [False, True, True, True, True]

    compression_weights = {name for name, _ in core.named_parameters() if name.startswith(("compressors", "decoders"))}
    task = [sum(((i + 1) * y.sin()).sum() for i, y in enumerate(ys)) for ys in (outputs, expected)]
    auxiliary = [sum(values) for values in (losses, expected_losses)]
    names, parameters = zip(*core.named_parameters(), strict=True)
    gradients = [
        torch.autograd.grad(total, parameters, retain_graph=True, allow_unused=True)
        for total in (task[0], auxiliary[0], task[1], auxiliary[1])
    ]
    for name, of_task, of_loss, expected_of_task, expected_of_loss in zip(names, *gradients, strict=True):
        if name in compression_weights:
            assert of_task is None or not of_task.any(), f"the task's loss trains {name}"
            torch.testing.assert_close(of_loss, expected_of_loss, **EXACT, msg=lambda m, n=name: f"{n}: {m}")
        else:
            assert of_loss is None or not of_loss.any(), f"the loss of the compression trains {name}"
            torch.testing.assert_close(of_task, expected_of_task, **EXACT, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize(
    ("block", "positions", "memory_length", "granularity", "rate"),
    [
        ("post", "relative", 3, 4, 2),
        ("trxl_i", "rotary", 2, 3, 3),
        ("gtrxl", "relative", 1, 6, 2),
        ("gtrxl", "rotary", 4, 2, 1),
    ],
)
@torch.no_grad()
def test_equals_the_schedule(
    compression: Any, block: Any, positions: Any, memory_length: int, granularity: int, rate: int
) -> None:
    core = tiny(
        compression=compression,
        block=block,
        positions=positions,
        memory_length=memory_length,
        granularity=granularity,
        compression_rate=rate,
    )
    x, reset = sample(2, 22, reset_rate=0.08)
    assert reset.any()
    y = core(x, core.initial_state(2), reset).y
    stream = core.stream(2)
    stepped = torch.stack([stream.step(x[:, t], reset[:, t]) for t in range(22)], dim=1)
    for row in range(2):
        expected, _ = plain_stream(core, x[row], reset[row])
        torch.testing.assert_close(y[row], expected, **EXACT)
        torch.testing.assert_close(stepped[row], expected, **EXACT)


@pytest.mark.parametrize("loss", ["attention_reconstruction", "auto_encoding"])
@pytest.mark.parametrize("compression", ["conv", "dilated_conv"])
@pytest.mark.parametrize(("memory_length", "granularity"), [(3, 4), (1, 2), (5, 2), (0, 6)])
@torch.no_grad()
def test_losses_are_means_over_rows_and_steps(
    loss: Any, compression: Any, memory_length: int, granularity: int
) -> None:
    core = tiny(compression=compression, compression_loss=loss, memory_length=memory_length, granularity=granularity)
    x, reset = sample(2, 19, reset_rate=0.1)
    assert core(x[:, :5], core.initial_state(2), reset[:, :5]).losses[loss] == 0 or memory_length + granularity <= 5
    whole = core(x, core.initial_state(2), reset)
    rows = [plain_stream(core, x[row], reset[row])[1] for row in range(2)]
    means = [torch.stack([value for row in rows for value in row[i]]).mean() for i in range(2)]
    torch.testing.assert_close(whole.losses[loss], sum(means), **EXACT)


@pytest.mark.parametrize("positions", ["relative", "rotary"])
@pytest.mark.parametrize("compression", ["max", "mean", "most_used"])
@pytest.mark.parametrize("granularity", [1, 2])
@torch.no_grad()
def test_a_rate_of_one_is_a_longer_transformer_xl(compression: Any, positions: Any, granularity: int) -> None:
    memory = {"granularity": granularity, "positions": positions, "block": "gtrxl"}
    core = tiny(compression=compression, memory_length=2, compressed_length=4, compression_rate=1, **memory)
    control = memory_cores.build(
        "transformer_xl", d_model=8, num_layers=2, num_heads=2, d_ff=6, memory_length=6, **memory
    ).double()
    control.load_state_dict(core.state_dict())
    x, reset = sample(2, 40, reset_rate=0.05)
    y = core(x, core.initial_state(2), reset).y
    torch.testing.assert_close(y, control(x, control.initial_state(2), reset).y, **EXACT)


@pytest.mark.parametrize("positions", ["relative", "rotary"])
@pytest.mark.parametrize(
    ("compression", "rate", "granularity"), [("conv", 3, 6), ("most_used", 2, 4), ("mean", 1, 1), ("max", 5, 5)]
)
@torch.no_grad()
def test_a_long_call_in_query_blocks_equals_short_calls(
    compression: Any, positions: Any, rate: int, granularity: int
) -> None:
    core = tiny(
        compression=compression,
        positions=positions,
        compression_rate=rate,
        granularity=granularity,
        memory_length=5,
        compressed_length=7,
    )
    x, reset = sample(2, 300, reset_rate=0.02)
    whole = core(x, core.initial_state(2), reset)
    state, outputs = core.initial_state(2), []
    for start in range(0, 300, 50):
        y, state, _, _ = core(x[:, start : start + 50], state, reset[:, start : start + 50])
        outputs.append(y)
    torch.testing.assert_close(torch.cat(outputs, dim=1), whole.y)
    torch.testing.assert_close(state, whole.state)


@pytest.mark.parametrize("compression", ["conv", "most_used"])
@torch.no_grad()
def test_memories_may_be_longer_than_in_training(compression: Any) -> None:
    short = tiny(compression=compression, memory_length=4)
    options = {"memory_length": 5, "compressed_length": 6, "granularity": 4}
    long = tiny(seed=1, compression=compression, **options)
    long.load_state_dict(short.state_dict())
    x, reset = sample(1, 24)
    torch.testing.assert_close(long(x, long.initial_state(1)).y[0], plain_stream(long, x[0], reset[0])[0], **EXACT)


@pytest.mark.parametrize("positions", ["relative", "rotary"])
@torch.no_grad()
def test_a_long_stream_does_not_drift(positions: Any) -> None:
    core = tiny(positions=positions, memory_length=6, compressed_length=5, compression_rate=3).float()
    x = torch.randn(1, 800, 8)
    stream = core.stream(1)
    stepped = torch.stack([stream.step(x[:, t]) for t in range(800)], dim=1)
    exact = core.double()(x.double(), core.initial_state(1)).y
    error = (stepped.double() - exact).abs().amax(dim=(0, 2))
    assert error[-200:].max() < 2 * error[:200].max() + 1e-5


def test_bptt_trains_the_compression_within_a_call_alone() -> None:
    core = tiny(compression_loss="bptt", memory_length=2, granularity=2)
    x, _ = sample(1, 12)
    one_call = core(x, core.initial_state(1))
    assert one_call.losses == {}
    one_call.y.square().sum().backward()
    assert all(compressor.conv.weight.grad.any() for compressor in core.compressors)

    core.zero_grad()
    state = core.initial_state(1)
    for segment in x.split(2, dim=1):
        y, state, _, _ = core(segment, state)
        y.square().sum().backward()
    assert all(not compressor.conv.weight.grad.any() for compressor in core.compressors)


@pytest.mark.parametrize("loss", ["attention_reconstruction", "auto_encoding"])
def test_training_lowers_the_loss(loss: Any) -> None:
    core = tiny(compression_loss=loss, memory_length=4, granularity=4)
    x, _ = sample(2, 40)
    optimizer = torch.optim.Adam(core.parameters(), lr=0.02)
    values = []
    for _ in range(60):
        optimizer.zero_grad()
        value = core(x, core.initial_state(2)).losses[loss]
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[-1] < 0.7 * values[0]


@torch.no_grad()
def test_metrics_share_out_the_attention_of_the_last_step() -> None:
    x, _ = sample(2, 21)
    for positions in ("relative", "rotary"):
        core = tiny(positions=positions, memory_length=4, num_layers=1).eval()
        metrics = core(x, core.initial_state(2)).metrics
        shares = {name: value for name, value in metrics.items() if name.endswith("_attention")}
        assert sum(shares.values()) == pytest.approx(1.0)
        assert all(value > 0 for value in shares.values())
        assert core(x[:, :5], core.initial_state(2)).metrics["compressed_attention"] == 0
        core.train()
        watched = set(metrics) if positions == "relative" else set(metrics) - set(shares)
        assert set(core(x, core.initial_state(2)).metrics) == watched
    layer = PlainLayer(core := tiny(memory_length=4, num_layers=1, compression="mean"), 0)
    keys = [(t, x[0, t]) for t in range(6)]
    _, weights = layer.attend(5, x[0, 5], keys)
    metrics = core(x[:1, :6], core.initial_state(1)).metrics
    assert metrics["memory_attention"] == pytest.approx(weights[:4].sum().item())
    assert metrics["present_attention"] == pytest.approx(weights[4:].sum().item())


def test_metrics_tell_the_loss_of_each_layer() -> None:
    x, _ = sample(2, 21)
    core = tiny(num_layers=3, memory_length=4)
    output = core(x, core.initial_state(2))
    layers = [output.metrics[f"compression_loss_layer_{layer}"] for layer in (1, 2, 3)]
    assert sum(layers) == pytest.approx(output.losses["attention_reconstruction"].item())
    assert len({float(loss) for loss in layers}) == 3
    core = tiny(compression="mean")
    assert "compression_loss_layer_1" not in core(x, core.initial_state(2)).metrics


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_bfloat16_autocast(compression: Any) -> None:
    core = tiny(compression=compression, memory_length=2, positions="relative").float()
    x = torch.randn(2, 16, 8)
    exact = core(x, core.initial_state(2))
    with torch.autocast("cpu", torch.bfloat16):
        first = core(x[:, :8].bfloat16(), core.initial_state(2))
        y, state, losses, _ = core(x[:, 8:], first.state)
        stream = core.stream(2)
        stepped = torch.stack([stream.step(x[:, t]) for t in range(16)], dim=1)
    sum(losses.values(), y.square().sum()).backward()
    assert {name: tensor.dtype for name, tensor in state.items()} == {k: v.dtype for k, v in exact.state.items()}
    assert all(value.dtype == torch.float32 for value in losses.values())
    torch.testing.assert_close(stepped, exact.y, rtol=1e-4, atol=1e-4)
    if compression != "most_used":  # rounding may change which steps are the most used
        torch.testing.assert_close(torch.cat([first.y, y], dim=1).float(), exact.y, rtol=0.1, atol=0.2)
    assert all(parameter.grad.isfinite().all() for parameter in core.parameters())


def test_inference_mode_does_not_leak_into_training() -> None:
    core = tiny(compression="most_used", memory_length=4).float()
    with torch.inference_mode():
        stream = core.stream(2)
        for _ in range(40):
            stream.step(torch.randn(2, 8), torch.tensor([True, False]))
        state = stream.state()
    stream.step(torch.randn(2, 8))
    core(torch.randn(2, 3, 8), state).y.sum().backward()
    assert core.content_bias.grad is not None


def test_bad_calls_are_named() -> None:
    core = tiny(memory_length=4)
    x, _ = sample(2, 5)
    state = core.initial_state(2)
    with pytest.raises(ValueError, match=r"share a phase.*\[0, 1\]"):
        core(x, {**state, "phase": torch.tensor([0, 1])})
    with pytest.raises(ValueError, match=r"state\['compressed'\] is torch.float64 \(2, 2, 4, 8\), expected"):
        core.stream(2).load({**state, "compressed": torch.zeros(2, 2, 4, 8, dtype=torch.float64)})
