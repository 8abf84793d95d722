"""The infinity-former against its equations written as plain loops."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import memory_cores
from memory_cores.infinity.attention import Density
from memory_cores.infinity.core import Infinity
from memory_cores.infinity.density import long_term_densities
from memory_cores.infinity.sticky import BINS, attention_histogram, sample_points, uniforms
from tests.memory_cores.plain_infinity import PlainFit, PlainInfinityLayer, plain_segments, plain_stream, plain_uniform

EXACT = {"rtol": 1e-9, "atol": 1e-9}
FIT = {"num_basis": 6, "num_samples": 5, "narrow_width": 0.1, "wide_width": 0.25}


def tiny(seed: int = 0, **options: Any) -> Infinity:
    """A float64 core of width 8 with 2 heads, every parameter moved off its initial value."""
    torch.manual_seed(seed)
    core = memory_cores.build(
        "infinity", **{"d_model": 8, "num_layers": 2, "num_heads": 2, "d_ff": 6, **FIT, **options}
    ).double()
    with torch.no_grad():
        for parameter in core.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return core


def fit_of(core: Infinity, **options: Any) -> PlainFit:
    return PlainFit(granularity=core.schedule.granularity, **{**FIT, **options})


def sample(batch: int, steps: int, reset_rate: float = 0.0) -> tuple[Tensor, Tensor]:
    return torch.randn(batch, steps, 8, dtype=torch.float64), torch.rand(batch, steps) < reset_rate


@pytest.mark.parametrize(
    ("block", "options"),
    [
        ("post", {"num_layers": 1, "memory_length": 3, "mask": True, "mu0": 0.3, "sigma0": 0.2, "kl_weight": 0.1}),
        ("gtrxl", {"memory_length": 3, "kl_weight": 0.1, "tau": 0.4, "ridge": 0.2}),
        ("trxl_i", {"num_layers": 1, "memory_length": 6, "mask": True, "sticky": True, "kl_weight": 0.1}),
    ],
)
def test_aligned_segments_are_the_authors_algorithm(block: Any, options: Any) -> None:
    core = tiny(block=block, granularity=3, **options)
    x, _ = sample(1, 15)
    segments = list(x[0].split(3))
    fitted = {name: options[name] for name in ("tau", "ridge") if name in options}
    expected, expected_losses = plain_segments(core, fit_of(core, **fitted), segments)
    state, outputs, losses = core.initial_state(1), [], []
    for segment in segments:
        y, state, named, _ = core(segment[None], state)
        outputs.append(y[0])
        losses.append(named["kl"])
    for segment, (y, expected_y) in enumerate(zip(outputs, expected, strict=True)):
        torch.testing.assert_close(y, expected_y, **EXACT, msg=lambda m, s=segment: f"segment {s}: {m}")
    torch.testing.assert_close(losses, expected_losses, **EXACT)
    empty = (options["memory_length"] + 3) // 3
    assert [value.item() > 0 for value in losses] == [False] * empty + [True] * (5 - empty)

    totals = [
        sum(((i + 1) * y.sin()).sum() + loss for i, (y, loss) in enumerate(zip(ys, ls, strict=True)))
        for ys, ls in ((outputs, losses), (expected, expected_losses))
    ]
    names, parameters = zip(*core.named_parameters(), strict=True)
    for name, actual, wanted in zip(names, *(torch.autograd.grad(total, parameters) for total in totals), strict=True):
        assert actual.any(), f"nothing trains {name}"
        torch.testing.assert_close(actual, wanted, **EXACT, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize(
    ("block", "positions", "memory_length", "granularity", "options"),
    [
        ("post", "relative", 3, 4, {"mask": True}),
        ("trxl_i", "rotary", 2, 3, {"sticky": True}),
        ("gtrxl", "relative", 1, 2, {"sticky": True, "mask": True}),
        ("gtrxl", "rotary", 0, 3, {}),
        ("post", "relative", 3, 1, {"sticky": True}),
    ],
)
@torch.no_grad()
def test_equals_the_schedule(block: Any, positions: Any, memory_length: int, granularity: int, options: Any) -> None:
    core = tiny(
        block=block,
        positions=positions,
        memory_length=memory_length,
        granularity=granularity,
        num_layers=1 + (granularity > 1),
        **options,
    )
    x, reset = sample(2, 21, reset_rate=0.06)
    assert reset[:, 8:].any()
    state = core.initial_state(2)
    if core.sticky:
        state["generator"][:, 0] = torch.tensor([0, -5])
    y = core(x, state, reset).y
    stream = core.stream(2)
    stream.load(state)
    stepped = torch.stack([stream.step(x[:, t], reset[:, t]) for t in range(21)], dim=1)
    for row, key in enumerate((0, -5)):
        expected = plain_stream(core, fit_of(core), x[row], reset[row], key)
        torch.testing.assert_close(y[row], expected, **EXACT)
        torch.testing.assert_close(stepped[row], expected, **EXACT)


@pytest.mark.parametrize("positions", ["relative", "rotary"])
@torch.no_grad()
def test_an_empty_long_term_memory_adds_nothing(positions: Any) -> None:
    memory: Any = {"memory_length": 4, "granularity": 3, "positions": positions}
    core, silent = tiny(**memory), tiny(**memory)
    for loud, mute in zip(core.long_term, silent.long_term, strict=True):
        loud.output.weight.fill_(1e30)
        mute.output.weight.zero_()
    control = memory_cores.build("transformer_xl", d_model=8, num_layers=2, num_heads=2, d_ff=6, **memory).double()
    control.load_state_dict({k: v for k, v in core.state_dict().items() if not k.startswith("long_term")})
    x, _ = sample(2, 10)
    reset = torch.zeros(2, 10, dtype=torch.bool)
    reset[0, 6] = True
    reset[1, 5] = True
    state = core.initial_state(2)
    y, _, losses, metrics = core(x, state, reset)
    assert torch.equal(y, silent(x, state, reset).y)
    torch.testing.assert_close(y, control(x, control.initial_state(2), reset).y, **EXACT)
    assert losses["kl"] == 0
    assert not any(metrics.values())
    stream, plain = core.stream(2), silent.stream(2)
    for t in range(10):
        assert torch.equal(stream.step(x[:, t], reset[:, t]), plain.step(x[:, t], reset[:, t]))


def test_gradients_stop_at_the_last_refit() -> None:
    core = tiny(memory_length=3, granularity=3, block="post", mask=True)
    x, _ = sample(1, 12)
    weights = {name: parameter for name, parameter in core.named_parameters() if name.startswith("long_term")}

    def trained(x: Tensor, state: Any, since: int) -> set[str]:
        core.zero_grad()
        core(x, state).y[:, since:].square().sum().backward()
        return {name for name, p in weights.items() if p.grad is not None and p.grad.any()}

    masks = {name for name in weights if ".mask." in name}
    assert trained(x[:, :6], core.initial_state(1), 0) == set()
    with torch.no_grad():
        before, after = (core(x[:, :steps], core.initial_state(1)).state for steps in (6, 7))
    assert trained(x[:, 6:9], before, 0) == set(weights)
    assert trained(x[:, 7:9], after, 0) == set(weights) - masks, "the refit came before the call"

    # Of the steps that left the short-term memory in the call itself no gradient comes back.
    x.requires_grad_()
    core.zero_grad()
    layer = tiny(memory_length=3, granularity=3, block="post", num_layers=1)
    y = layer(x, layer.initial_state(1)).y
    (gradient,) = torch.autograd.grad(y[:, 9:].sum(), x)
    assert not gradient[:, :6].any()
    assert gradient[:, 6:].any()


@pytest.mark.parametrize("sticky", [False, True])
@torch.no_grad()
def test_memories_may_be_longer_than_in_training(sticky: bool) -> None:
    short = tiny(memory_length=2, granularity=4, sticky=sticky)
    long = tiny(seed=1, memory_length=5, granularity=3, sticky=sticky)
    long.load_state_dict(short.state_dict())
    x, reset = sample(1, 17)
    expected = plain_stream(long, fit_of(long), x[0], reset[0])
    torch.testing.assert_close(long(x, long.initial_state(1)).y[0], expected, **EXACT)


@torch.no_grad()
def test_constants_stay_exact_whatever_the_core_is_cast_to() -> None:
    core = tiny(memory_length=2, granularity=2)
    exact = dict(core.signal.named_buffers())
    assert not exact.keys() & core.state_dict().keys()
    for name, constant in core.bfloat16().float().double().signal.named_buffers():
        assert constant.dtype == torch.float64
        assert torch.equal(constant, exact[name])


def test_random_numbers_are_those_of_the_counter() -> None:
    key, refits = torch.tensor([0, 7, -1]), torch.tensor([[0, 3], [1, 2**62], [9, 9]])
    drawn = uniforms(key[:, None], refits, 4, 3)
    for row in range(3):
        for turn in range(2):
            expected = [plain_uniform(key[row].item(), refits[row, turn].item(), 4, k) for k in range(3)]
            assert drawn[row, turn].tolist() == expected
    many = uniforms(torch.arange(40), torch.zeros(40, dtype=torch.int64), 0, 500)
    assert many.mean().item() == pytest.approx(0.5, abs=0.01)
    assert many.var().item() == pytest.approx(1 / 12, abs=0.003)
    assert torch.corrcoef(many).triu(1).abs().max() < 0.25


def test_points_follow_the_attention() -> None:
    mean, variance = torch.tensor([[[0.3], [0.8]]]).double(), torch.tensor([[[0.01], [0.0004]]]).double()
    histogram = attention_histogram(mean, variance)
    normal = torch.distributions.Normal(mean[0, :, 0], variance[0, :, 0].sqrt())
    edges = torch.linspace(0, 1, BINS + 1).double()[:, None]
    torch.testing.assert_close(histogram[0], normal.cdf(edges).diff(dim=0).sum(dim=1), **EXACT)
    points = sample_points(histogram, uniforms(torch.tensor([1]), torch.tensor([0]), 0, 20_000))[0]
    assert (points.diff() >= 0).all()
    assert points[0] >= 0
    assert points[-1] <= 1
    counted = torch.histc(points, BINS, 0, 1) / len(points)
    assert (counted - histogram[0] / histogram.sum()).abs().sum() < 0.1
    torch.testing.assert_close(
        sample_points(torch.zeros(1, BINS), torch.tensor([[0.9, 0.1]]).double()), torch.tensor([[0.1, 0.9]]).double()
    )


@torch.no_grad()
def test_sticky_memories_repeat_with_the_state_and_differ_by_key() -> None:
    core = tiny(memory_length=2, granularity=4, sticky=True)
    x, _ = sample(1, 30)
    x = x.expand(3, -1, -1)
    state = core.initial_state(3)
    state["generator"][2, 0] = 1
    torch.manual_seed(1)
    first = core(x, state)
    torch.manual_seed(2)
    second = core(x, state)
    assert torch.equal(first.y, second.y)
    assert torch.equal(first.state["generator"], torch.tensor([[0, 5], [0, 5], [1, 5]]))
    torch.testing.assert_close(first.y[0], first.y[1], **EXACT)
    assert not torch.allclose(first.y[0], first.y[2])
    even = tiny(memory_length=2, granularity=4)
    assert not torch.allclose(even(x, even.initial_state(3)).y, first.y)


@torch.no_grad()
def test_the_regulariser_is_a_divergence() -> None:
    core = tiny(memory_length=2, granularity=2, mu0=0.4, sigma0=0.1)
    density = Density(torch.rand(2, 2, 5).double(), torch.rand(2, 2, 5).double())
    holds = torch.tensor([[True, False, True, True, False], [False] * 5])
    wanted = torch.distributions.Normal(torch.tensor(0.4).double(), torch.tensor(0.1).double())
    kl = torch.distributions.kl_divergence(torch.distributions.Normal(density.mean, density.variance.sqrt()), wanted)
    torch.testing.assert_close(core.divergence(density, holds), kl[0][:, holds[0]].mean())
    core.mu0 = None
    exact = Density(torch.rand(2, 2, 5).double(), torch.full((2, 2, 5), 0.01).double())
    assert core.divergence(exact, holds) == pytest.approx(0)


@torch.no_grad()
def test_metrics_and_densities_are_those_of_the_queries() -> None:
    core = tiny(memory_length=2, granularity=3, num_layers=1, sticky=True)
    x, _ = sample(2, 14)
    reset = torch.zeros(2, 14, dtype=torch.bool)
    reset[1, 7] = True
    densities = long_term_densities(core, x, core.initial_state(2), reset)
    assert densities.turns == [2, 5, 8, 11]
    assert densities.points.shape == (2, 1, 4, FIT["num_samples"])
    assert densities.holds.sum(dim=1).tolist() == [9, 5]
    found = []
    for row in range(2):
        layer = PlainInfinityLayer(core, 0, fit_of(core))
        for t in range(14):
            if t in densities.turns[1:]:
                block = range(t - 5, t - 2)
                if not row or t != 8:
                    layer.memory.take([x[row, s] if not row or t < 8 or s >= 7 else None for s in block])
            if reset[row, t]:
                layer.memory.clear()
            layer.memory.densities = []
            layer.memory.read(layer.read(x[row, t]))
            assert bool(layer.memory.densities) == densities.holds[row, t]
            for head, (mean, variance) in enumerate(layer.memory.densities):
                assert densities.mean[row, 0, head, t].item() == pytest.approx(mean.item())
                assert densities.deviation[row, 0, head, t].item() == pytest.approx(math.sqrt(variance))
                found.append((mean.item(), math.sqrt(variance)))
    metrics = core(x, core.initial_state(2), reset).metrics
    assert metrics["density_mean"] == pytest.approx(sum(mean for mean, _ in found) / len(found))
    assert metrics["density_deviation"] == pytest.approx(sum(deviation for _, deviation in found) / len(found))
    assert 0 < metrics["long_term_share"] < 1


@pytest.mark.parametrize("sticky", [False, True])
def test_the_smallest_ridge_gives_finite_gradients(sticky: bool) -> None:
    """Two basis functions at one centre and blocks of one step make the regression singular but for its ridge."""
    options = {"memory_length": 0, "granularity": 1, "num_basis": 2, "num_samples": 1, "sticky": sticky}
    with pytest.raises(ValueError, match=r"ridge is 1e-12, expected a larger number: the condition number .* above"):
        tiny(**options, ridge=1e-12)
    core = tiny(**options, ridge=1e-6, mask=True).float()
    x = torch.ones(2, 9, 8, requires_grad=True)
    output = core(x, core.initial_state(2))
    (output.y.sum() + output.losses["kl"]).backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in core.parameters())
    assert output.state["coefficients"].isfinite().all()


@pytest.mark.parametrize("sticky", [False, True])
@torch.no_grad()
def test_a_long_stream_does_not_drift(sticky: bool) -> None:
    core = tiny(memory_length=6, granularity=4, num_layers=1, sticky=sticky, num_basis=16).float()
    x = torch.randn(1, 500, 8)
    stream = core.stream(1)
    stepped = torch.stack([stream.step(x[:, t]) for t in range(500)], dim=1)
    exact = core.double()(x.double(), core.initial_state(1)).y
    error = (stepped.double() - exact).abs().amax(dim=(0, 2))
    assert error[-150:].max() < 2 * error[:150].max() + 1e-5


@pytest.mark.parametrize("sticky", [False, True])
def test_bfloat16_autocast(sticky: bool) -> None:
    core = tiny(memory_length=2, granularity=3, sticky=sticky, mask=True, block="trxl_i").float()
    x = torch.randn(2, 16, 8)
    exact = core(x, core.initial_state(2))
    with torch.autocast("cpu", torch.bfloat16):
        first = core(x[:, :8].bfloat16(), core.initial_state(2))
        y, state, losses, _ = core(x[:, 8:], first.state)
        stream = core.stream(2)
        stepped = torch.stack([stream.step(x[:, t]) for t in range(16)], dim=1)
    sum(losses.values(), y.square().sum()).backward()
    assert {name: tensor.dtype for name, tensor in state.items()} == {k: v.dtype for k, v in exact.state.items()}
    assert losses["kl"].dtype == torch.float32
    torch.testing.assert_close(stepped, exact.y, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(torch.cat([first.y, y], dim=1).float(), exact.y, rtol=0.1, atol=0.2)
    assert all(parameter.grad.isfinite().all() for parameter in core.parameters())


def test_inference_mode_does_not_leak_into_training() -> None:
    core = tiny(memory_length=4, granularity=2, sticky=True).float()
    with torch.inference_mode():
        stream = core.stream(2)
        for _ in range(40):
            stream.step(torch.randn(2, 8), torch.tensor([True, False]))
        state = stream.state()
    stream.step(torch.randn(2, 8))
    core(torch.randn(2, 3, 8), state).y.sum().backward()
    assert core.content_bias.grad is not None


def test_bad_options_and_calls_are_named() -> None:
    bad = {"num_basis": 7, "granularity": 0, "num_samples": 0, "narrow_width": 0.1, "wide_width": 0.05, "tau": 1.0}
    bad |= {"ridge": 0.0, "kl_weight": -1.0, "sigma0": math.inf, "mu0": 1.5, "num_heads": 3, "memory_length": -1}
    with pytest.raises(ValueError, match="options of core 'infinity'") as error:
        memory_cores.build("infinity", d_model=8, **bad)
    for name, value in bad.items():
        assert name in ("num_heads", "wide_width") or f"{name} is {value!r}, expected" in str(error.value)
    assert "d_model is 8, expected a multiple of num_heads, 3" in str(error.value)
    with pytest.raises(ValueError, match="granularity is 1000000000, expected at most 262144 in sum with num_samples"):
        memory_cores.build("infinity", d_model=8, granularity=10**9)
    core = tiny(memory_length=4, granularity=3)
    x, _ = sample(2, 5)
    state = core.initial_state(2)
    with pytest.raises(ValueError, match=r"share a phase.*\[0, 1\]"):
        core(x, {**state, "phase": torch.tensor([0, 1])})
    with pytest.raises(ValueError, match=r"state\['coefficients'\] is torch.float64 \(2, 2, 4, 8\), expected"):
        core.stream(2).load({**state, "coefficients": torch.zeros(2, 2, 4, 8, dtype=torch.float64)})
