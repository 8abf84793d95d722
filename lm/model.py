"""The language model: embedding -> memory core -> softmax, tied to the embedding by default."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import memory_cores
from lm.config import CoreConfig, ModelConfig
from lm.errors import InputError
from memory_cores import CoreOutput, MemoryCore, State


class ModelOutput(NamedTuple):
    """What the model says of T steps."""

    logits: Tensor
    """(B, T, V) float32, of the token at each step."""
    core: CoreOutput


class LanguageModel(nn.Module):
    """p(token at t | tokens before t in its document), over one memory core."""

    def __init__(self, vocabulary_size: int, core: MemoryCore, tied: bool = True, dropout: float = 0.0) -> None:
        super().__init__()
        self.vocabulary_size = vocabulary_size
        self.core = core
        self.embedding = nn.Embedding(vocabulary_size, core.d_model)
        self.beginning = nn.Parameter(torch.empty(core.d_model))
        """The input at the first step of a document, where there is no token before."""
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(core.d_model)
        self.softmax = nn.Linear(core.d_model, vocabulary_size)
        # Unit logits from unit outputs; `embed` scales the shared matrix back to unit inputs.
        nn.init.normal_(self.embedding.weight, std=core.d_model**-0.5)
        nn.init.normal_(self.beginning, std=core.d_model**-0.5)
        nn.init.normal_(self.softmax.weight, std=core.d_model**-0.5)
        nn.init.zeros_(self.softmax.bias)
        if tied:
            self.softmax.weight = self.embedding.weight

    def embed(self, inputs: Tensor, reset: Tensor | None) -> Tensor:
        """Core inputs (..., D) of the tokens before each step (...) int64, and of reset (...) bool."""
        embedded: Tensor = self.embedding(inputs)
        if reset is not None:
            embedded = torch.where(reset[..., None], self.beginning, embedded)
        x: Tensor = self.dropout(embedded * self.core.d_model**0.5)
        return x

    def logits(self, y: Tensor) -> Tensor:
        """Core outputs (..., D) -> logits (..., V) float32."""
        logits: Tensor = self.softmax(self.dropout(self.norm(y)))
        return logits.float()

    def forward(self, inputs: Tensor, state: State, reset: Tensor | None = None) -> ModelOutput:
        """B rows of T steps at once: inputs (B, T) int64, the token before each step; reset (B, T) bool."""
        core = self.core(self.embed(inputs, reset), state, reset)
        return ModelOutput(self.logits(core.y), core)


def next_token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """The mean of -log p(target) in nats: logits (B, T, V), targets (B, T) int64."""
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def make_model(vocabulary_size: int, core: CoreConfig, model: ModelConfig) -> LanguageModel:
    """The model an experiment describes, with freshly drawn weights (torch's global generator)."""
    memory_core = memory_cores.build(core.name, d_model=core.d_model, **core.options)
    return LanguageModel(vocabulary_size, memory_core, model.tied, model.dropout)


def load_weights(model: LanguageModel, weights: Mapping[str, Tensor]) -> None:
    """Copy weights into a model; raises InputError naming what does not fit."""
    expected = model.state_dict()
    wrong = [
        f"{name}: the weights have {shape(weights, name)}, the model {shape(expected, name)}"
        for name in sorted({*weights, *expected})
        if shape(weights, name) != shape(expected, name)
    ]
    if wrong:
        raise InputError(
            "the weights do not fit the model; options that change their shapes stay as they were in training\n"
            + "\n".join(wrong[:10])
        )
    model.load_state_dict(dict(weights))


def shape(tensors: Mapping[str, Tensor], name: str) -> str:
    """The shape of a named tensor, in words."""
    return str(tuple(tensors[name].shape)) if name in tensors else "none of that name"
