"""The compiled loop draws from what the core and the softmax say of the whole."""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import memory_cores
from audio import wavenet_generation, wavenet_kernels
from audio.wavenet import WaveNet
from audio.wavenet_generation import Ends, Generated, generate_codes
from memory_cores import State

CODES = 11


class Model(NamedTuple):
    """A model of codes, and a state it has read a prompt into."""

    core: WaveNet
    ends: Ends
    prompt: Tensor
    state: State
    logits: Tensor

    def all_logits(self, codes: Tensor) -> tuple[Tensor, State]:
        """Logits (B, N, V) of codes (B, N) after the prompt in one call, the code after the last, and the state."""
        inputs = torch.cat([self.prompt, codes], dim=1)
        y, state, _, _ = self.core(self.ends.embedding[inputs], self.core.initial_state(len(inputs)))
        return self.ends.softmax(self.ends.norm(y[:, self.prompt.shape[1] - 1 :])), state

    def generate(self, num_codes: int, temperature: float = 1.0, seed: int = 0) -> Generated:
        return generate_codes(self.core, self.ends, self.state, self.logits, num_codes, temperature, seed)


def sharp_model(batch: int = 2, **options: int) -> Model:
    """A model whose predictions are far from uniform, over a width that no vector instruction divides."""
    torch.manual_seed(1)
    core = memory_cores.build("wavenet", d_model=7, **options)
    ends = Ends(torch.randn(CODES, 7), nn.LayerNorm(7), nn.Linear(7, CODES))
    with torch.no_grad():
        for parameter in (*core.parameters(), *ends.norm.parameters(), *ends.softmax.parameters()):
            parameter.mul_(1.5).add_(0.2 * torch.randn(parameter.shape))
    model = Model(core.requires_grad_(False), ends, torch.randint(CODES, (batch, 5)), {}, torch.empty(0))
    model.ends.softmax.requires_grad_(False)
    model.ends.norm.requires_grad_(False)
    logits, state = model.all_logits(torch.empty(batch, 0, dtype=torch.int64))
    return model._replace(state=state, logits=logits[:, -1])


@pytest.mark.parametrize(
    "options", [{"num_blocks": 2, "layers_per_block": 4}, {"layers_per_block": 3, "kernel_size": 3, "d_skip": 5}]
)
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_codes_are_drawn_by_their_probabilities_in_the_parallel_pass(
    options: dict[str, int], temperature: float
) -> None:
    model = sharp_model(**options)
    drawn = model.generate(60, temperature, seed=4)
    logits, state = model.all_logits(drawn.codes)
    parallel = logits[:, :-1].log_softmax(-1).gather(2, drawn.codes[..., None])[..., 0]
    torch.testing.assert_close(drawn.log_probabilities, parallel, rtol=0, atol=1e-4)
    torch.testing.assert_close(drawn.logits, logits[:, -1], rtol=0, atol=1e-4)
    torch.testing.assert_close(drawn.state, state, rtol=0, atol=1e-4)
    # Each code is the one in whose part of [0, 1] its number fell.
    uniforms = torch.from_numpy(np.random.default_rng(4).random((2, 60)))
    cumulative = (logits[:, :-1].double() / temperature).softmax(-1).cumsum(-1)
    upper = cumulative.gather(2, drawn.codes[..., None])[..., 0]
    lower = nn.functional.pad(cumulative, (1, 0)).gather(2, drawn.codes[..., None])[..., 0]
    assert (uniforms <= upper + 1e-4).all()
    assert (uniforms >= lower - 1e-4).all()
    assert drawn.codes.unique().numel() > 4


def test_temperature_zero_is_the_likeliest_code() -> None:
    model = sharp_model(layers_per_block=3)
    drawn = model.generate(30, temperature=0)
    logits, _ = model.all_logits(drawn.codes)
    assert torch.equal(drawn.codes, logits[:, :-1].argmax(-1))
    assert torch.equal(drawn.codes, model.generate(30, temperature=1e-300).codes)


def test_a_seed_repeats_and_no_split_into_calls_or_streams_changes_a_code(monkeypatch: pytest.MonkeyPatch) -> None:
    model = sharp_model(layers_per_block=4)
    whole = model.generate(40)
    assert not torch.equal(whole.codes, model.generate(40, seed=1).codes)
    monkeypatch.setattr(wavenet_generation, "CALL_LENGTH", 7)
    again = model.generate(40)
    assert torch.equal(whole.codes, again.codes)
    assert torch.equal(whole.state["queues"], again.state["queues"])
    first = model._replace(state={"queues": model.state["queues"][:1]}, logits=model.logits[:1])
    assert torch.equal(first.generate(40).codes, whole.codes[:1])
    begun = model.generate(15, temperature=0)
    gone_on = model._replace(state=begun.state, logits=begun.logits).generate(25, temperature=0)
    both = torch.cat([begun.codes, gone_on.codes], dim=1)
    assert torch.equal(both, model.generate(40, temperature=0).codes)


def test_what_does_not_fit_is_refused() -> None:
    model = sharp_model(layers_per_block=2)
    for temperature in (-1.0, float("nan")):
        with pytest.raises(ValueError, match=r"temperature is (-1.0|nan), expected at least 0"):
            model.generate(3, temperature)
    with pytest.raises(ValueError, match=r"expected torch\.float32"):
        model._replace(state={"queues": model.state["queues"][:1]}).generate(3)
    with pytest.raises(ValueError, match=r"weights and logits in torch\.float32 on the CPU"):
        model._replace(logits=model.logits.double()).generate(3)


def test_code_is_compiled_also_where_none_can_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    compile_function = numba.njit

    def without_a_place(*args: Any, cache: bool = False, **options: Any) -> Any:
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return compile_function(*args, **options)

    monkeypatch.setattr(numba, "njit", without_a_place)

    def double(x: float) -> float:
        return 2 * x

    assert wavenet_kernels.compile_loop(double)(1.5) == 3.0
