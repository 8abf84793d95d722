"""Perplexity by word and by its frequency, against counts by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from lm.config import DataConfig, ModelConfig, WordCounts
from lm.corpus import Corpus, Split, prepare
from lm.evaluation import evaluate, token_nats
from lm.frequency import frequency_buckets, nats_of_words
from lm.text_model import make_model
from lm.vocabulary import ByteVocabulary
from lm.words import WordVocabulary
from tests.lm.synthetic import Experiment
from training.weights import weights_of


def test_the_nats_of_a_word_are_those_of_its_letters_and_of_the_space_before_it() -> None:
    tokens = np.frombuffer(b" ab  c\nd  ", np.uint8)
    nats = 2.0 ** np.arange(10)
    found = list(nats_of_words(nats, tokens, ByteVocabulary()))
    assert found == [(b"ab", 1 + 2 + 4), (b"c", 8 + 16 + 32), (b"d", 64 + 128)]


def test_words_fall_into_the_buckets_of_their_count_in_the_train_split() -> None:
    train = b"often " * 10_001 + b"usual " * 10_000 + b"some " * 100 + b"rare " * 99
    splits = [Split(name, np.frombuffer(raw, np.uint8), np.array([0]), 0, 0, "") for name, raw in
              (("train", train), ("test", b"often usual usual some rare never"))]  # fmt: skip
    nats = np.ones(len(splits[1].tokens))
    found = frequency_buckets(nats, splits[1], splits[0], ByteVocabulary())
    assert [(b.frequency, b.words, b.nats) for b in found] == [
        ("> 10K", 1, 5.0), ("1K-10K", 2, 12.0), ("100-1K", 1, 5.0), ("< 100", 2, 11.0),
    ]  # fmt: skip
    assert found[1].perplexity == pytest.approx(math.exp(6))
    none = frequency_buckets(nats[:5], Split("test", splits[1].tokens[:5], np.array([0]), 0, 0, ""), splits[0],
                             ByteVocabulary())  # fmt: skip
    assert none[1].perplexity is None


def test_words_as_tokens_are_their_own_buckets() -> None:
    vocabulary = WordVocabulary(("the", "<eos>", "<unk>", "cat"))
    train = Split("train", np.repeat(np.arange(4, dtype=np.uint8), [1000, 200, 99, 1]), np.array([0]), 0, 0, "")
    test = Split("test", np.array([0, 3, 1, 2, 0], np.uint8), np.array([0]), 0, 0, "")
    found = frequency_buckets(np.array([1.0, 2.0, 4.0, 8.0, 16.0]), test, train, vocabulary)
    assert [b.frequency for b in found] == ["> 10K", "1K-10K", "100-1K", "< 100", "<unk>", "<eos>"]
    assert [(b.words, b.nats) for b in found] == [(0, 0.0), (2, 17.0), (0, 0.0), (1, 2.0), (1, 8.0), (1, 4.0)]


@torch.no_grad()
def hand_count(model: torch.nn.Module, corpus: Corpus, path: Path) -> float:
    """- log p of a file, token by token from logits, in double precision."""
    total = 0.0
    for file in sorted(path.iterdir()):
        tokens = torch.from_numpy(corpus.vocabulary.encode(file.read_bytes(), "").astype(np.int64))[None]
        reset = torch.zeros(tokens.shape, dtype=torch.bool)
        reset[0, 0] = True
        y = model(tokens.roll(1), model.core.initial_state(1), reset).y
        log_probabilities = model.head.logits(y)[0].double().log_softmax(-1)
        total -= sum(float(log_probabilities[t, token]) for t, token in enumerate(tokens[0]))
    return total


@pytest.mark.parametrize("published", [None, 77])
def test_perplexity_per_word_of_a_subword_model_is_what_a_hand_count_gives(
    experiment: Experiment, published: int | None
) -> None:
    config = experiment(tokens="subwords", vocabulary_size=300, words=WordCounts(validation=published))
    corpus = prepare(config.data)
    torch.manual_seed(1)
    model = make_model(corpus.vocabulary.size, config.core, config.model).eval()
    folder = Path(config.data.path) / "validation"  # type: ignore[union-attr]
    texts = [path.read_text() for path in sorted(folder.iterdir())]
    words = published or sum(len(text.split()) for text in texts)
    nats = hand_count(model, corpus, folder)
    result = evaluate(config, corpus.vocabulary, weights_of(model), by_frequency=True)
    assert result.word_perplexity == pytest.approx(math.exp(nats / words), rel=1e-4)
    assert result.num_words == words
    assert result.words_from == ("published" if published else "counted")
    assert result.bits_per_byte == pytest.approx(nats / math.log(2) / len("".join(texts).encode()), rel=1e-5)
    assert result.buckets is not None
    assert sum(b.words for b in result.buckets) == sum(len(text.split()) for text in texts)
    trailing = sum(
        float(token_nats(model, corpus.splits["validation"], 2)[stop - 1])
        for stop in [*corpus.splits["validation"].starts[1:], len(corpus.splits["validation"].tokens)]
    )
    assert sum(b.nats for b in result.buckets) == pytest.approx(nats - trailing, rel=1e-5)


def test_a_model_of_words_counts_its_tokens_as_words_and_no_bytes(tmp_path: Path, experiment: Experiment) -> None:
    config = experiment(tokens="words", vocabulary_size=6)
    corpus = prepare(config.data)
    model = make_model(corpus.vocabulary.size, config.core, ModelConfig())
    result = evaluate(config, corpus.vocabulary, weights_of(model))
    assert result.num_words == result.tokens == len(corpus.splits["validation"].tokens)
    assert result.bits_per_byte is None
    assert result.word_perplexity == pytest.approx(math.exp(result.nats_per_token))


def test_equal_splits_are_pointed_out_for_every_kind_of_token(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("train.txt", "valid.txt", "test.txt"):
        (tmp_path / name).write_text("the same words\n")
    prepare(DataConfig(str(tmp_path), "words", cache=str(tmp_path / "cache")))
    assert caplog.text.count("same text as the train split") == 2
