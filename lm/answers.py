"""Scoring the answers of a synthetic task: shown answers as in training, and answers that the model writes itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lm.config import ExperimentConfig, TaskConfig
from lm.corpus import Split
from lm.errors import InputError
from lm.evaluation import document_batches, outputs
from lm.generation import TokenStream
from lm.lanes import as_int64
from lm.model import IGNORED, LanguageModel, load_weights
from lm.softmax import CategoricalHead
from lm.tasks import answer_length, correct, symbols_of, task_corpus
from lm.text_model import make_model


@dataclass(frozen=True)
class Answers:
    """How well answers are given; a sequence counts if every one of its symbols is right."""

    split: str
    sequences: int
    nats_per_symbol: float
    """- log p of the answers of the corpus; with ties, of the one order that is theirs."""
    shown_symbol_accuracy: float
    """Of the likeliest symbol at each place after the right ones before it (teacher forcing)."""
    shown_sequence_accuracy: float
    written_symbol_accuracy: float | None = None
    """Of symbols written one by one, each the likeliest after those before it (greedy); None where none were."""
    written_sequence_accuracy: float | None = None


def evaluate_task(config: ExperimentConfig, weights: Mapping[str, Tensor], split: str) -> Answers:
    """Score a split of the task of a configuration, by answers shown and by answers written.

    Raises InputError if the weights do not fit the configuration.
    """
    data = config.data
    if not isinstance(data, TaskConfig):
        raise InputError(f"data.path: {data.path}: a text is scored by lm.evaluation.evaluate")
    model = make_model(symbols_of(data) + 2, config.core, config.model).to(config.train.device)
    load_weights(model, weights)
    corpus = task_corpus(data, model.core.period)
    return score_answers(model, data, corpus.splits[split], config.train.batch_size, write=True)


def task_metrics(
    model: LanguageModel, data: TaskConfig, split: Split, batch_size: int, limit: int | None
) -> dict[str, float]:
    """Validation metrics by TensorBoard tag, of the first `limit` tokens, from answers shown."""
    result = score_answers(model, data, split, batch_size, write=False, limit=limit)
    return {
        "validation/nats_per_token": result.nats_per_symbol,
        "validation/symbol_accuracy": result.shown_symbol_accuracy,
        "validation/sequence_accuracy": result.shown_sequence_accuracy,
    }


@torch.no_grad()
def score_answers(
    model: LanguageModel, data: TaskConfig, split: Split, batch_size: int, write: bool, limit: int | None = None
) -> Answers:
    """Score the documents of a split that begin within its first `limit` tokens."""
    was_training = model.training
    model.eval()
    length = len(split.tokens) // len(split.starts)
    count = len(split.starts) if limit is None else min(max(limit // length, 1), len(split.starts))
    documents = split.tokens.reshape(-1, length)[:count].astype(np.int64)
    places = slots(split)
    answers = documents[:, places]
    nats, shown = _shown(model, split, batch_size, count * length)
    right = correct(data, documents, answers, shown.reshape(count, length)[:, places], answers)
    result = Answers(split.name, count, nats / answers.size, float(right.mean()), float(right.all(1).mean()))
    if write:
        written = written_answers(model, documents[:, : places.start], answer_length(data), batch_size)
        right = correct(data, documents, answers, written, written)
        result = dataclasses.replace(
            result,
            written_symbol_accuracy=float(right.mean()),
            written_sequence_accuracy=float(right.all(1).mean()),
        )
    model.train(was_training)
    return result


def slots(split: Split) -> slice:
    """The places of the answer in each document."""
    if split.scored is None:
        raise ValueError(f"the {split.name} split has no answers")
    (places,) = np.nonzero(split.scored[: len(split.tokens) // len(split.starts)])
    return slice(int(places[0]), int(places[-1]) + 1)


def _shown(model: LanguageModel, split: Split, batch_size: int, limit: int) -> tuple[float, NDArray[np.int64]]:
    """Nats of all answers, and the likeliest token at each of their places (tokens,)."""
    nats = 0.0
    likeliest = np.zeros(limit, dtype=np.int64)
    for batch in document_batches(split, batch_size, limit):
        for places, targets, y in outputs(model, split, batch):
            asked = targets != IGNORED
            if asked.any():
                nats += float(model.head.losses(y[asked], targets[asked]).double().sum())
                likeliest[places[asked.cpu().numpy()]] = likeliest_tokens(model, y[asked]).cpu().numpy()
    return nats, likeliest


def written_answers(
    model: LanguageModel, questions: NDArray[np.int64], length: int, batch_size: int
) -> NDArray[np.int64]:
    """What the model writes after questions (N, steps), the likeliest token at each step: (N, length)."""
    written = []
    for start in range(0, len(questions), batch_size):
        batch = as_int64(questions[start : start + batch_size]).to(model.device)
        stream = TokenStream(model, len(batch))
        y = stream.read(batch)
        tokens: list[Tensor] = []
        while len(tokens) < length:
            if tokens:
                y = stream.step(tokens[-1])
            tokens.append(likeliest_tokens(model, y))
        written.append(torch.stack(tokens, dim=1).cpu().numpy())
    return np.concatenate(written)


def likeliest_tokens(model: LanguageModel, y: Tensor) -> Tensor:
    """(N,) int64 from core outputs (N, D)."""
    if not isinstance(model.head, CategoricalHead):
        raise InputError("answers are scored for models of tokens alone")
    return model.head.log_probabilities(y).argmax(-1)
