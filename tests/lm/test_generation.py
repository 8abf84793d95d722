"""Generation: what is sampled from, step by step, is what the model says of the whole."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import memory_cores
from lm.generation import TokenStream, generate
from lm.model import Sampling
from lm.softmax import sampling_probabilities
from tests.lm.test_evaluation import sharp_model


@pytest.mark.parametrize("core", memory_cores.names())
@pytest.mark.parametrize("prompt_length", [0, 1, 9])
def test_streaming_gives_the_log_probabilities_of_the_parallel_pass(core: str, prompt_length: int) -> None:
    model = sharp_model(core).eval()
    tokens = torch.randint(11, (2, 40), generator=torch.Generator().manual_seed(0))
    reset = torch.zeros(tokens.shape, dtype=torch.bool)
    reset[:, 0] = True
    with torch.no_grad():
        y = model(tokens.roll(1, dims=1), model.core.initial_state(2), reset).y
        parallel = model.head.log_probabilities(y)
    stream = TokenStream(model, batch_size=2)
    steps = [stream.read(tokens[:, :prompt_length])]
    steps += [stream.step(tokens[:, t]) for t in range(prompt_length, 39)]
    with torch.no_grad():
        streamed = model.head.log_probabilities(torch.stack(steps, dim=1))
    torch.testing.assert_close(streamed, parallel[:, prompt_length:], atol=1e-4, rtol=0)


@given(
    logits=st.lists(st.floats(-20, 20), min_size=1, max_size=8),
    temperature=st.floats(0.1, 5),
    top_k=st.none() | st.integers(1, 10),
    top_p=st.floats(0.01, 1),
)
def test_filtering_keeps_the_likeliest_tokens_in_proportion(
    logits: list[float], temperature: float, top_k: int | None, top_p: float
) -> None:
    kept = sampling_probabilities(torch.tensor([logits]), Sampling(temperature, top_k, top_p))[0].double()
    weights = (torch.tensor(logits).double() / temperature).softmax(0)
    order = weights.argsort(descending=True, stable=True).tolist()[:top_k]
    total = sum(float(weights[token]) for token in order)
    nucleus, mass = [], 0.0
    for token in order:
        if nucleus and mass >= top_p - 1e-9:
            break
        nucleus.append(token)
        mass += float(weights[token]) / total
    assert float(kept.sum()) == pytest.approx(1)
    expected = torch.zeros_like(kept)
    expected[nucleus] = weights[nucleus] / weights[nucleus].sum()
    borderline = abs(mass - top_p) < 1e-6 or abs(mass - float(weights[nucleus[-1]]) / total - top_p) < 1e-6
    if not borderline:
        torch.testing.assert_close(kept, expected, atol=1e-6, rtol=1e-5)


def test_temperature_zero_is_the_likeliest_token_and_a_seed_repeats() -> None:
    model = sharp_model("lstm")
    prompt = torch.tensor([3, 1, 4])
    greedy = list(generate(model, prompt, 12, Sampling(0)))
    assert greedy == list(generate(model, prompt, 12, Sampling(top_k=1), seed=5))
    assert greedy == list(generate(model, prompt, 12, Sampling(1e-300)))
    first, second, other = (list(generate(model, prompt[:0], 30, Sampling(), seed)) for seed in (7, 7, 8))
    assert first == second
    assert first != other
    assert len(first) == 30
    assert {written.token for written in first} <= set(range(11))


def test_what_was_written_has_the_log_probability_that_the_parallel_pass_gives_it() -> None:
    model = sharp_model("transformer_xl")
    prompt = torch.tensor([3, 1, 4])
    written = list(generate(model, prompt, 20, Sampling(temperature=2.0, top_k=4)))
    tokens = torch.cat([prompt, torch.tensor([w.token for w in written])])[None]
    reset = torch.zeros(tokens.shape, dtype=torch.bool)
    reset[0, 0] = True
    with torch.no_grad():
        losses = model.head.losses(model(tokens.roll(1), model.core.initial_state(1), reset).y, tokens)
    assert [w.log_probability for w in written] == pytest.approx((-losses[0, 3:]).tolist(), abs=1e-4)


def test_samples_follow_the_probabilities() -> None:
    model = sharp_model("lstm")
    nothing = torch.zeros(0, dtype=torch.int64)
    expected = model.head.log_probabilities(TokenStream(model, 1).read(nothing[None])).detach().exp()[0]
    draws = torch.tensor([next(generate(model, nothing, 1, Sampling(), seed)).token for seed in range(1000)])
    frequencies = draws.bincount(minlength=11) / len(draws)
    assert float((frequencies - expected).abs().max()) < 0.05


@pytest.mark.parametrize(("temperature", "top_k", "top_p"), [(-1, None, 1), (1, 0, 1), (1, None, 0), (1, None, 1.1)])
def test_settings_out_of_bounds_are_refused(temperature: float, top_k: int | None, top_p: float) -> None:
    with pytest.raises(ValueError, match="expected temperature"):
        Sampling(temperature, top_k, top_p)
