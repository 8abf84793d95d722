"""Evaluation: the whole split, each document as one stream from an empty memory.

The memory is carried through a document and every token is scored once, the first one too, so the result depends on
neither the batch size nor the length of the calls. Documents are batched, never cut.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lm.config import DataConfig, ExperimentConfig, TrainConfig
from lm.corpus import Corpus, Split, prepare
from lm.frequency import Bucket, frequency_buckets, perplexity
from lm.lanes import inputs_and_targets
from lm.loose_texts import Text, split_of
from lm.model import IGNORED, LanguageModel
from lm.scored import PositionBucket, ScoredSplit, document_units, in_unit, ratio_interval, unit_of
from lm.text_model import make_model
from lm.vocabulary import CharacterVocabulary, Vocabulary
from lm.words import WordVocabulary
from training.errors import InputError
from training.held_out import Check, evaluation_mode, never_stop
from training.progress import ProgressLine
from training.weights import load_weights

CALL_LENGTH = 512
"""Steps of one call of the model, rounded up to whole periods of its core, in which attention costs least."""


@dataclass(frozen=True)
class Evaluation:
    """How well a model predicts a split."""

    split: str
    nats: float
    """- log p of the whole split."""
    tokens: int
    num_bytes: int | None
    """None where tokens do not say what bytes they stand for: words, of which <unk> is one."""
    num_words: int
    words_from: str
    """Where the number of words is from: counted in the split, published, or the tokens themselves."""
    characters: int | None
    """None where tokens are not characters."""
    documents: int
    interval: tuple[float, float] | None
    """95 % interval of bits per byte, or of nats per token where there are none, by a bootstrap over documents; None
    for a single document."""
    positions: list[PositionBucket]
    """Nats per token by position in the document."""
    buckets: list[Bucket] | None = None
    """Perplexity by training-set word frequency; None where that was not asked for."""

    @property
    def nats_per_token(self) -> float:
        return self.nats / self.tokens

    @property
    def bits_per_byte(self) -> float | None:
        return self.nats / math.log(2) / self.num_bytes if self.num_bytes else None

    @property
    def bits_per_character(self) -> float | None:
        return self.nats / math.log(2) / self.characters if self.characters else None

    @property
    def word_perplexity(self) -> float | None:
        """exp(nats / words), whatever the tokens are (as Rae et al., 1911.05507, count it); None without words.

        Infinite where it is above the largest float.
        """
        return perplexity(self.nats, self.num_words)


def evaluate(
    config: ExperimentConfig,
    vocabulary: Vocabulary,
    weights: Mapping[str, Tensor],
    split: str = "validation",
    by_frequency: bool = False,
) -> Evaluation:
    """Score a split of the text of a configuration, in the numbering the weights were trained with.

    Raises InputError if the corpus lacks the split or the weights do not fit the configuration.
    """
    return summarise(score(config, vocabulary, weights, split), config, vocabulary, by_frequency)


def score(
    config: ExperimentConfig,
    vocabulary: Vocabulary,
    weights: Mapping[str, Tensor],
    split: str = "validation",
    texts: Sequence[Text] | None = None,
) -> ScoredSplit:
    """What every token of a split costs a model, or of `texts`, each a document, in place of the configuration's data.

    Raises InputError if the corpus lacks the split, the weights do not fit the configuration, or a text has what is not
    in the vocabulary.
    """
    data = config.data
    if not isinstance(data, DataConfig):
        raise InputError(f"data.task: {data.task}: answers are scored by lm.answers.evaluate_task")
    model = make_model(vocabulary.size, config.core, config.model).to(config.train.device)
    load_weights(model, weights)
    if texts is not None:
        scored = split_of(texts, vocabulary)
    else:
        corpus = prepare(data, vocabulary)
        if split not in corpus.splits:
            raise InputError(f"{data.path}: has no {split} split; it has {', '.join(corpus.splits)}")
        scored = corpus.splits[split]
    return ScoredSplit(scored, token_nats(model, scored, config.train.batch_size))


def summarise(
    scored: ScoredSplit, config: ExperimentConfig, vocabulary: Vocabulary, by_frequency: bool = False
) -> Evaluation:
    """The figures of a scored split; `by_frequency` reads the configuration's train split for word frequencies."""
    data, split, nats = config.data, scored.split, scored.nats
    assert isinstance(data, DataConfig)
    published: int | None = getattr(data.words, split.name, None)
    words = isinstance(vocabulary, WordVocabulary)
    counted = len(nats) if words else split.num_words
    train = prepare(data, vocabulary).splits["train"] if by_frequency else None
    return Evaluation(
        split=split.name,
        nats=float(nats.sum()),
        tokens=len(nats),
        num_bytes=None if words else split.num_bytes,
        num_words=published or counted,
        words_from="published" if published else "tokens" if words else "counted",
        characters=len(nats) if isinstance(vocabulary, CharacterVocabulary) else None,
        documents=len(split.starts),
        interval=ratio_interval(in_unit(scored.document_nats, unit_of(vocabulary)), document_units(scored, vocabulary)),
        positions=scored.by_position(),
        buckets=None if train is None else frequency_buckets(nats, split, train, vocabulary),
    )


def validation_metrics(model: LanguageModel, check: Check, corpus: Corpus, train: TrainConfig) -> dict[str, float]:
    """How well a model predicts the first `evaluation_tokens` of the validation split, by TensorBoard tag."""
    split = corpus.splits["validation"]
    nats = total_nats(model, split, train.batch_size, limit=train.evaluation_tokens, check=check)
    tokens = split.tokens[: train.evaluation_tokens]
    metrics = {"validation/nats_per_token": nats / len(tokens)}
    if isinstance(corpus.vocabulary, WordVocabulary):
        return metrics | {"validation/perplexity": perplexity(nats, len(tokens)) or math.inf}
    num_bytes = corpus.vocabulary.count_bytes(tokens)
    return metrics | {"validation/bits_per_byte": nats / math.log(2) / num_bytes}


def total_nats(
    model: LanguageModel,
    split: Split,
    batch_size: int,
    call_length: int | None = None,
    limit: int | None = None,
    check: Check = never_stop,
) -> float:
    """- log p of a split, or of its first `limit` tokens, with up to `batch_size` documents side by side."""
    return float(token_nats(model, split, batch_size, call_length, limit, check).sum())


@torch.no_grad()
def token_nats(
    model: LanguageModel,
    split: Split,
    batch_size: int,
    call_length: int | None = None,
    limit: int | None = None,
    check: Check = never_stop,
) -> NDArray[np.float64]:
    """- log p (N,) of each token of a split, or of its first `limit`; 0 of those that are not to be predicted.

    `check` is called between two calls of the model.
    """
    nats = np.zeros(min(len(split.tokens), limit or len(split.tokens)))
    count = 0
    with evaluation_mode(model), ProgressLine(len(nats), unit="tokens", what=f"scoring the {split.name} split") as line:
        for batch in document_batches(split, batch_size, limit):
            for places, targets, y in outputs(model, split, batch, call_length):
                predicted = (targets != IGNORED).cpu().numpy()
                nats[places[predicted]] = model.head.losses(y, targets).cpu().numpy()[predicted]
                count += int(predicted.sum())
                line.update(count)
                check()
    return nats


def document_batches(split: Split, batch_size: int, limit: int | None) -> Iterator[list[tuple[int, int]]]:
    """The documents as (start, stop) in batches, the longest first, so that those of a batch are of like length."""
    end = min(len(split.tokens), limit or len(split.tokens))
    starts = [start for start in split.starts.tolist() if start < end]
    documents = sorted(zip(starts, [*starts[1:], end], strict=True), key=lambda d: d[0] - d[1])
    for first in range(0, len(documents), batch_size):
        yield documents[first : first + batch_size]


def outputs(
    model: LanguageModel, split: Split, documents: list[tuple[int, int]], call_length: int | None = None
) -> Iterator[tuple[NDArray[np.int64], Tensor, Tensor]]:
    """Run documents, the longest first, from an empty memory, `call_length` steps a call (None is CALL_LENGTH).

    Yields for each call: the places (rows, steps) in the split; the targets there, IGNORED past a document's end and
    where nothing is to be predicted; and the core's outputs y (rows, steps, D).
    """
    period = model.core.period
    call_length = call_length or -(-CALL_LENGTH // period) * period
    state = model.core.initial_state(len(documents))
    longest = documents[0][1] - documents[0][0]
    for time in range(0, longest, call_length):
        going = [(start + time, stop) for start, stop in documents if start + time < stop]
        # Rows that have ended leave the batch: they are its last.
        state = {name: tensor[: len(going)] for name, tensor in state.items()}
        steps = min(call_length, going[0][1] - going[0][0])
        places = np.array([start for start, _ in going])[:, None] + np.arange(steps)  # (B, T)
        valid = torch.from_numpy(places < np.array([[stop] for _, stop in going]))
        places = places.clip(max=len(split.tokens) - 1)
        inputs, targets = (tensor.to(model.device) for tensor in inputs_and_targets(split, places))
        reset = torch.zeros(inputs.shape, dtype=torch.bool, device=model.device)
        reset[:, 0] = time == 0
        output = model(inputs, state, reset)
        state = output.state
        yield places, targets.masked_fill(~valid.to(model.device), IGNORED), output.y
