"""The model of an audio experiment: codes under a softmax, or 16-bit levels under a mixture of logistics."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import memory_cores
from audio.config import ModelConfig
from audio.logistic_mixture import LogisticMixture, from_parameters
from audio.mu_law import MU
from audio.quantiser import Quantiser
from lm.model import IGNORED, FrontEnd, Head, LanguageModel, Sampling
from lm.softmax import Softmax, TokenEmbedding
from training.config import CoreConfig

FEATURES = 2
"""Inputs made of a sample: its value, and its companded value, in which quiet samples stay distinct."""


class WaveformFrontEnd(FrontEnd):
    """A small perceptron on the value of the sample before each step, and a learned vector where there is none."""

    def __init__(self, levels: int, d_model: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.levels = levels
        self.expand = nn.Linear(FEATURES, d_model)
        self.project = nn.Linear(d_model, d_model)
        self.beginning = nn.Parameter(torch.empty(d_model))
        """The input at the first step of a clip."""
        self.dropout = nn.Dropout(dropout)
        nn.init.normal_(self.beginning)

    def forward(self, inputs: Tensor, reset: Tensor | None) -> Tensor:
        x = (2 * inputs / (self.levels - 1) - 1).to(self.expand.weight.dtype)
        companded = x.sign() * torch.log1p(MU * x.abs()) / math.log1p(MU)
        with full_precision(x):
            hidden: Tensor = self.project(F.silu(self.expand(torch.stack([x, companded], dim=-1))))
        if reset is not None:
            hidden = torch.where(reset[..., None], self.beginning, hidden)
        dropped: Tensor = self.dropout(hidden)
        return dropped


class LogisticMixtureHead(Head):
    """A mixture of logistics over equally spaced levels."""

    def __init__(self, levels: int, d_model: int, mixtures: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.levels = levels
        self.norm = nn.LayerNorm(d_model)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(d_model, 3 * mixtures)
        nn.init.normal_(self.linear.weight, std=0.1 * d_model**-0.5)
        # Scales from a thousandth of full scale to all of it, so that one of them fits whatever the loudness.
        with torch.no_grad():
            self.linear.bias.zero_()
            self.linear.bias[2 * mixtures :] = torch.linspace(-7, 0, mixtures)

    def mixture(self, y: Tensor) -> LogisticMixture:
        """The distribution of the next level, from core outputs (..., D)."""
        with full_precision(y):
            y = self.norm(y.to(self.linear.weight.dtype))
            return from_parameters(self.linear(self.dropout(y)), self.levels)

    def losses(self, y: Tensor, targets: Tensor) -> Tensor:
        ignored = targets == IGNORED
        return -self.mixture(y).log_prob(targets.masked_fill(ignored, 0)).masked_fill(ignored, 0.0)

    def sample(self, y: Tensor, sampling: Sampling, generator: torch.Generator) -> Tensor:
        """Raises ValueError for top_k and top_p, which mean nothing to a density."""
        if sampling.top_k is not None or sampling.top_p < 1:
            raise ValueError("top_k and top_p are for models of codes; a mixture of logistics takes a temperature")
        logits, means, log_scales, levels = self.mixture(y)
        return LogisticMixture(logits.cpu(), means.cpu(), log_scales.cpu(), levels).sample(
            sampling.temperature, generator
        )


def full_precision(x: Tensor) -> torch.autocast:
    """No autocast: bfloat16 has 256 values of a sample, not 65,536."""
    return torch.autocast(x.device.type, enabled=False)


def make_model(quantiser: Quantiser, core: CoreConfig, model: ModelConfig) -> LanguageModel:
    """The model an experiment describes, with freshly drawn weights (torch's global generator)."""
    memory_core = memory_cores.build(core.name, d_model=core.d_model, **core.options)
    if quantiser.name == "logistic_16":
        return LanguageModel(
            WaveformFrontEnd(quantiser.levels, core.d_model, model.dropout),
            memory_core,
            LogisticMixtureHead(quantiser.levels, core.d_model, model.mixtures, model.dropout),
        )
    embedding = TokenEmbedding(quantiser.levels, core.d_model, model.dropout)
    softmax = Softmax(quantiser.levels, core.d_model, model.dropout)
    if model.tie_embeddings:
        softmax.tie(embedding)
    return LanguageModel(embedding, memory_core, softmax)
