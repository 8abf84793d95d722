"""Evaluation: the whole split, each document as one stream from nothing.

The memory is carried through a document and every token is scored once, the first one too, so the result depends on
neither the batch size nor the length of the calls. Documents are batched, never cut.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lm.config import ExperimentConfig, TrainConfig
from lm.corpus import Corpus, Split, prepare
from lm.errors import InputError
from lm.lanes import as_int64
from lm.model import IGNORED, LanguageModel, load_weights
from lm.text_model import make_model
from lm.vocabulary import CharacterVocabulary, Vocabulary

CALL_LENGTH = 512
"""Steps of one call of the model."""


@dataclass(frozen=True)
class Evaluation:
    """How well a model predicts a split."""

    split: str
    nats: float
    """- log p of the whole split."""
    tokens: int
    num_bytes: int
    num_words: int
    characters: int | None
    """None where tokens are not characters."""

    @property
    def nats_per_token(self) -> float:
        return self.nats / self.tokens

    @property
    def bits_per_byte(self) -> float:
        return self.nats / math.log(2) / self.num_bytes

    @property
    def bits_per_character(self) -> float | None:
        return self.nats / math.log(2) / self.characters if self.characters else None

    @property
    def word_perplexity(self) -> float | None:
        """exp(nats / words), whatever the tokens are (as Rae et al., 1911.05507, count it); None without words.

        Infinite where it is above the largest float.
        """
        if not self.num_words:
            return None
        exponent = self.nats / self.num_words
        return math.exp(exponent) if exponent < 700 else math.inf


def evaluate(
    config: ExperimentConfig, vocabulary: Vocabulary, weights: Mapping[str, Tensor], split: str = "validation"
) -> Evaluation:
    """Score a split of the configuration's corpus, in the numbering the weights were trained with.

    Raises InputError if the corpus lacks the split or the weights do not fit the configuration.
    """
    model = make_model(vocabulary.size, config.core, config.model)
    load_weights(model, weights)
    corpus = prepare(config.data, vocabulary)
    if split not in corpus.splits:
        raise InputError(f"{config.data.path}: has no {split} split; it has {', '.join(corpus.splits)}")
    scored = corpus.splits[split]
    return Evaluation(
        split=split,
        nats=total_nats(model, scored, config.train.batch_size),
        tokens=len(scored.tokens),
        num_bytes=scored.num_bytes,
        num_words=scored.num_words,
        characters=len(scored.tokens) if isinstance(vocabulary, CharacterVocabulary) else None,
    )


def validation_metrics(model: LanguageModel, corpus: Corpus, train: TrainConfig) -> dict[str, float]:
    """How well a model predicts the first `evaluation_tokens` of the validation split, by TensorBoard tag."""
    split = corpus.splits["validation"]
    nats = total_nats(model, split, train.batch_size, limit=train.evaluation_tokens)
    tokens = split.tokens[: train.evaluation_tokens]
    return {
        "validation/nats_per_token": nats / len(tokens),
        "validation/bits_per_byte": nats / math.log(2) / corpus.vocabulary.count_bytes(tokens),
    }


@torch.no_grad()
def total_nats(
    model: LanguageModel,
    split: Split,
    batch_size: int,
    call_length: int = CALL_LENGTH,
    limit: int | None = None,
) -> float:
    """- log p of a split, or of its first `limit` tokens, with up to `batch_size` documents side by side."""
    was_training = model.training
    model.eval()
    total = torch.zeros((), dtype=torch.float64)
    for batch in document_batches(split, batch_size, limit):
        for loss in batch_losses(model, split, batch, call_length):
            total += loss.double().sum().cpu()
    model.train(was_training)
    return float(total)


def document_batches(split: Split, batch_size: int, limit: int | None) -> Iterator[list[tuple[int, int]]]:
    """The documents as (start, stop) in batches, the longest first, so that those of a batch are of like length."""
    end = min(len(split.tokens), limit or len(split.tokens))
    starts = [start for start in split.starts.tolist() if start < end]
    documents = sorted(zip(starts, [*starts[1:], end], strict=True), key=lambda d: d[0] - d[1])
    for first in range(0, len(documents), batch_size):
        yield documents[first : first + batch_size]


def batch_losses(
    model: LanguageModel, split: Split, documents: list[tuple[int, int]], call_length: int
) -> Iterator[Tensor]:
    """- log p of each token of documents, the longest first, in tensors (rows, steps)."""
    device = model.device
    state = model.core.initial_state(len(documents))
    longest = documents[0][1] - documents[0][0]
    for time in range(0, longest, call_length):
        going = [(start + time, stop) for start, stop in documents if start + time < stop]
        # Rows that have ended leave the batch: they are its last.
        state = {name: tensor[: len(going)] for name, tensor in state.items()}
        steps = min(call_length, going[0][1] - going[0][0])
        places = np.array([start for start, _ in going])[:, None] + np.arange(steps)  # (B, T)
        valid = torch.from_numpy(places < np.array([[stop] for _, stop in going]))
        places = places.clip(max=len(split.tokens) - 1)  # past a document's end, where nothing is scored
        inputs, targets = (as_int64(split.tokens[index]).to(device) for index in (places - 1, places))
        reset = torch.zeros(inputs.shape, dtype=torch.bool, device=device)
        reset[:, 0] = time == 0
        output = model(inputs, state, reset)
        state = output.state
        yield model.head.losses(output.y, targets.masked_fill(~valid.to(device), IGNORED))
