"""An embedding as front end and a softmax as head, which share their matrix by default."""

from __future__ import annotations

from abc import abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lm.model import IGNORED, FrontEnd, Head, Sampling


class TokenEmbedding(FrontEnd):
    """The embedding of the token before each step, and a learned vector where there is none."""

    def __init__(self, vocabulary_size: int, d_model: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary_size, d_model)
        self.beginning = nn.Parameter(torch.empty(d_model))
        """The input at the first step of a document."""
        self.dropout = nn.Dropout(dropout)
        # Unit logits from unit outputs where the softmax shares the matrix; `forward` scales it to unit inputs.
        nn.init.normal_(self.embedding.weight, std=d_model**-0.5)
        nn.init.normal_(self.beginning, std=d_model**-0.5)

    def forward(self, inputs: Tensor, reset: Tensor | None) -> Tensor:
        embedded: Tensor = self.embedding(inputs)
        if reset is not None:
            embedded = torch.where(reset[..., None], self.beginning, embedded)
        x: Tensor = self.dropout(embedded * self.beginning.shape[0] ** 0.5)
        return x


class CategoricalHead(Head):
    """A head that gives each of V tokens a probability."""

    @abstractmethod
    def log_probabilities(self, y: Tensor) -> Tensor:
        """log p of every token (..., V) float32, from y (..., D)."""

    def sample(self, y: Tensor, sampling: Sampling, generator: torch.Generator) -> Tensor:
        probabilities = sampling_probabilities(self.log_probabilities(y), sampling).cpu()
        return torch.multinomial(probabilities, 1, generator=generator)[:, 0]


class Softmax(CategoricalHead):
    """A softmax over all tokens.

    >>> embedding, softmax = TokenEmbedding(10, d_model=4), Softmax(10, d_model=4)
    >>> softmax.tie(embedding)
    >>> softmax.losses(torch.randn(2, 3, 4), torch.tensor([[1, 2, IGNORED], [0, 9, 4]])).shape
    torch.Size([2, 3])
    """

    def __init__(self, vocabulary_size: int, d_model: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(d_model)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(d_model, vocabulary_size)
        nn.init.normal_(self.linear.weight, std=d_model**-0.5)
        nn.init.zeros_(self.linear.bias)

    def tie(self, embedding: TokenEmbedding) -> None:
        """Share the embedding's matrix (Press & Wolf, 1608.05859)."""
        self.linear.weight = embedding.embedding.weight

    def logits(self, y: Tensor) -> Tensor:
        """Core outputs (..., D) -> logits (..., V) float32."""
        logits: Tensor = self.linear(self.dropout(self.norm(y)))
        return logits.float()

    def losses(self, y: Tensor, targets: Tensor) -> Tensor:
        logits = self.logits(y).flatten(0, -2)
        return F.cross_entropy(logits, targets.flatten(), ignore_index=IGNORED, reduction="none").view(targets.shape)

    def log_probabilities(self, y: Tensor) -> Tensor:
        return self.logits(y).log_softmax(-1)


def sampling_probabilities(logits: Tensor, sampling: Sampling) -> Tensor:
    """The probabilities (B, V) to sample with, from logits (B, V).

    The logits are divided by the temperature; then only the `top_k` likeliest tokens are kept, and of these the
    fewest likeliest whose probabilities sum to at least `top_p` (nucleus sampling; Holtzman et al., 1904.09751).

    >>> logits = torch.log(torch.tensor([[0.5, 0.3, 0.2]]))
    >>> sampling_probabilities(logits, Sampling(top_k=2)).float()
    tensor([[0.6250, 0.3750, 0.0000]])
    >>> sampling_probabilities(logits, Sampling(temperature=0))
    tensor([[1., 0., 0.]])
    """
    if sampling.temperature == 0:
        return torch.zeros_like(logits).scatter_(1, logits.argmax(1, keepdim=True), 1.0)
    # From the largest down, so that a temperature near 0 is greedy and not infinity.
    ordered, tokens = ((logits.double() - logits.max(1, keepdim=True).values) / sampling.temperature).sort(
        dim=1, descending=True, stable=True
    )
    if sampling.top_k is not None:
        ordered[:, sampling.top_k :] = -torch.inf
    probabilities = ordered.softmax(1)
    # The likelier tokens' sum, so that the token which reaches top_p is kept, and always the first.
    before = probabilities.cumsum(1) - probabilities
    probabilities[before >= sampling.top_p] = 0.0
    probabilities /= probabilities.sum(1, keepdim=True)
    return torch.zeros_like(probabilities).scatter_(1, tokens, probabilities)
