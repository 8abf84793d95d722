"""Evaluation: the same number however the split is batched and cut, and the number an oracle finds."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import memory_cores
from lm.config import ModelConfig
from lm.corpus import Split, prepare
from lm.evaluation import Evaluation, document_batches, evaluate, total_nats
from lm.model import LanguageModel
from lm.text_model import make_model
from tests.lm.synthetic import OPTIONS, Experiment, StopAt
from training.config import CoreConfig
from training.errors import InputError
from training.held_out import Stopped
from training.weights import weights_of

LENGTHS = (23, 1, 40, 11, 17)


def sharp_model(core: str, size: int = 11) -> LanguageModel:
    """A model whose predictions are far from uniform."""
    torch.manual_seed(3)
    model = make_model(size, CoreConfig(core, 16, dict(OPTIONS.get(core, {}))), ModelConfig(dropout=0.5))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    return model


def random_split(lengths: tuple[int, ...] = LENGTHS, size: int = 11) -> Split:
    tokens = np.random.default_rng(0).integers(0, size, sum(lengths)).astype(np.uint8)
    return Split("validation", tokens, np.cumsum([0, *lengths[:-1]]), 0, 0, "")


@torch.no_grad()
def oracle(model: LanguageModel, split: Split) -> float:
    """Each document by itself in one call."""
    model.eval()
    total = 0.0
    for document in np.split(split.tokens, split.starts[1:]):
        tokens = torch.from_numpy(document.astype(np.int64))[None]
        reset = torch.zeros(tokens.shape, dtype=torch.bool)
        reset[0, 0] = True
        y = model(tokens.roll(1), model.core.initial_state(1), reset).y
        total -= float(model.head.logits(y).double().log_softmax(-1).gather(-1, tokens[..., None]).sum())
    return total


@pytest.mark.parametrize("core", memory_cores.names())
def test_the_result_depends_on_neither_batch_nor_call_length(core: str) -> None:
    model, split = sharp_model(core), random_split()
    expected = oracle(model, split)
    for batch_size, call_length in [(1, 7), (2, 16), (5, 1), (3, 512)]:
        measured = total_nats(model.train(), split, batch_size, call_length)
        assert measured / len(split.tokens) == pytest.approx(expected / len(split.tokens), abs=1e-5)
        assert model.training


def test_an_evaluation_is_given_up_after_the_next_call_of_the_model() -> None:
    model, split = sharp_model("lstm").train(), random_split()
    calls: list[int] = []
    model.core.register_forward_hook(lambda *_: calls.append(1))
    stop = StopAt(3)
    with pytest.raises(Stopped):
        total_nats(model, split, 2, call_length=5, check=stop)
    assert len(calls) == stop.calls == 3
    assert model.training


def test_a_limit_takes_the_first_tokens() -> None:
    model, split = sharp_model("lstm"), random_split()
    first = dataclasses.replace(split, tokens=split.tokens[:30], starts=split.starts[:3])
    assert total_nats(model, split, 2, limit=30) == pytest.approx(total_nats(model, first, 2), rel=1e-6)
    assert total_nats(model, split, 2, limit=10**6) == pytest.approx(total_nats(model, split, 2), rel=1e-6)


@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=8),
    batch_size=st.integers(1, 4),
    limit=st.none() | st.integers(1, 100),
)
def test_every_token_is_in_one_document_of_one_batch(lengths: list[int], batch_size: int, limit: int | None) -> None:
    split = random_split(tuple(lengths))
    batches = list(document_batches(split, batch_size, limit))
    scored = sorted(token for batch in batches for start, stop in batch for token in range(start, stop))
    assert scored == list(range(min(sum(lengths), limit or sum(lengths))))
    assert all(len(batch) <= batch_size for batch in batches)


def test_a_uniform_model_costs_the_logarithm_of_its_vocabulary(experiment: Experiment) -> None:
    config = experiment("lstm")
    vocabulary = prepare(config.data).vocabulary
    model = make_model(vocabulary.size, config.core, config.model)
    weights = {name: torch.zeros_like(tensor) for name, tensor in weights_of(model).items()}
    result = evaluate(config, vocabulary, weights, "test")
    text = "".join(path.read_text() for path in sorted((Path(config.data.path) / "test").iterdir()))
    bits = math.log2(vocabulary.size) * len(text)
    assert result.bits_per_character == pytest.approx(math.log2(vocabulary.size))
    assert result.bits_per_byte == pytest.approx(bits / len(text.encode()))
    assert result.word_perplexity == pytest.approx(2 ** (bits / len(text.split())))
    with pytest.raises(InputError, match="has no nonsense split; it has train, validation, test"):
        evaluate(config, vocabulary, weights, "nonsense")


def test_memory_at_evaluation_may_be_longer_than_in_training(experiment: Experiment) -> None:
    config = experiment("transformer_xl")
    vocabulary = prepare(config.data).vocabulary
    weights = weights_of(make_model(vocabulary.size, config.core, config.model))
    longer = dataclasses.replace(config, core=CoreConfig("transformer_xl", 16, {"memory_length": 64, "num_heads": 2}))
    short, long = (evaluate(c, vocabulary, weights).nats for c in (config, longer))
    assert short != long
    wider = dataclasses.replace(config, core=CoreConfig("transformer_xl", 32, {"num_heads": 2}))
    with pytest.raises(InputError, match="do not fit the model"):
        evaluate(wider, vocabulary, weights)


def test_no_words_no_perplexity() -> None:
    assert Evaluation("test", 3.0, 2, 2, 0, "counted", None, 1, None, []).word_perplexity is None
    assert Evaluation("test", 1e6, 2, 2, 1, "counted", None, 1, None, []).word_perplexity == math.inf
