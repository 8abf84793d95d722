"""Adaptive softmax and adaptive inputs: the rarer a token, the narrower its embedding.

Tokens, the commonest first, are parted into bands at `cutoffs`. Band i has embeddings of width D / factor^i, which a
projection takes to the width D of the core; the first band needs none. The softmax is over the first band and one entry
for each other band, and within a band over its tokens (Grave et al., 1609.04309); the inputs use the same bands, and by
default the same matrices (Baevski & Auli, 1809.10853, who project the first band too).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lm.model import IGNORED, FrontEnd
from lm.softmax import CategoricalHead
from training.errors import InputError


class Bands(nn.Module):
    """The embeddings of all tokens by band."""

    def __init__(self, vocabulary_size: int, d_model: int, cutoffs: Sequence[int], factor: int) -> None:
        """Raises InputError for a vocabulary too small for the cutoffs."""
        super().__init__()
        if cutoffs[-1] >= vocabulary_size:
            raise InputError(
                f"model.adaptive.cutoffs: {cutoffs[-1]} leaves the last band empty: "
                f"the vocabulary has {vocabulary_size} tokens"
            )
        self.borders = [0, *cutoffs, vocabulary_size]
        sizes = [stop - start for start, stop in itertools.pairwise(self.borders)]
        widths = [d_model // factor**band for band in range(len(sizes))]
        shapes = zip(sizes, widths, strict=True)
        # Unit logits from unit outputs; the front end scales to unit inputs.
        self.embeddings = nn.ParameterList(torch.randn(size, width) * width**-0.5 for size, width in shapes)
        self.projections = nn.ParameterList(torch.randn(width, d_model) * d_model**-0.5 for width in widths[1:])

    def rows_of(self, tokens: Tensor) -> list[Tensor]:
        """For each band, the places (count,) of its tokens in tokens (N,)."""
        return [
            ((tokens >= start) & (tokens < stop)).nonzero()[:, 0] for start, stop in itertools.pairwise(self.borders)
        ]


class AdaptiveEmbedding(FrontEnd):
    """The embedding of the token before each step, and a learned vector where there is none."""

    def __init__(self, bands: Bands, d_model: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.bands = bands
        self.beginning = nn.Parameter(torch.randn(d_model) * d_model**-0.5)
        self.dropout = nn.Dropout(dropout)

    def forward(self, inputs: Tensor, reset: Tensor | None) -> Tensor:
        tokens = inputs.flatten()
        embedded = self.beginning.new_zeros(len(tokens), len(self.beginning))
        for band, rows in enumerate(self.bands.rows_of(tokens)):
            part = F.embedding(tokens[rows] - self.bands.borders[band], self.bands.embeddings[band])
            if band:
                part = part @ self.bands.projections[band - 1]
            embedded = embedded.index_add(0, rows, part.to(embedded.dtype))
        embedded = embedded.view(*inputs.shape, -1)
        if reset is not None:
            embedded = torch.where(reset[..., None], self.beginning, embedded)
        x: Tensor = self.dropout(embedded * len(self.beginning) ** 0.5)
        return x


class AdaptiveSoftmax(CategoricalHead):
    """A softmax in two steps: which of the commonest tokens or which band, then which token of the band."""

    def __init__(self, bands: Bands, d_model: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.bands = bands
        self.norm = nn.LayerNorm(d_model)
        self.dropout = nn.Dropout(dropout)
        num_rarer = len(bands.projections)
        self.band_weight = nn.Parameter(torch.randn(num_rarer, d_model) * d_model**-0.5)
        self.band_bias = nn.Parameter(torch.zeros(num_rarer))
        self.biases = nn.ParameterList(torch.zeros(len(matrix)) for matrix in bands.embeddings)

    def losses(self, y: Tensor, targets: Tensor) -> Tensor:
        hidden, tokens = self.hidden(y).flatten(0, -2), targets.flatten()
        rows_of = self.bands.rows_of(tokens)
        first = tokens.clone()
        for band, rows in enumerate(rows_of[1:]):
            first[rows] = self.bands.borders[1] + band
        losses = F.cross_entropy(self.first_logits(hidden), first, ignore_index=IGNORED, reduction="none")
        for band, rows in enumerate(rows_of[1:], start=1):
            within = F.cross_entropy(
                self.band_logits(band, hidden[rows]), tokens[rows] - self.bands.borders[band], reduction="none"
            )
            losses = losses.index_add(0, rows, within)
        return losses.view(targets.shape)

    def log_probabilities(self, y: Tensor) -> Tensor:
        hidden = self.hidden(y)
        first = self.first_logits(hidden).log_softmax(-1)
        common, bands = torch.tensor_split(first, [self.bands.borders[1]], dim=-1)
        rarer = [
            self.band_logits(band, hidden).log_softmax(-1) + bands[..., band - 1 : band]
            for band in range(1, len(self.bands.embeddings))
        ]
        return torch.cat([common, *rarer], dim=-1)

    def hidden(self, y: Tensor) -> Tensor:
        """Core outputs (..., D), normalised -> (..., D), from which the logits are made."""
        hidden: Tensor = self.dropout(self.norm(y))
        return hidden

    def first_logits(self, hidden: Tensor) -> Tensor:
        """(..., first band and other bands) float32, of the commonest tokens and of the bands of all others."""
        weight = torch.cat([self.bands.embeddings[0], self.band_weight])
        return F.linear(hidden, weight, torch.cat([self.biases[0], self.band_bias])).float()

    def band_logits(self, band: int, hidden: Tensor) -> Tensor:
        """(..., tokens of the band) float32."""
        projected = F.linear(hidden, self.bands.projections[band - 1])
        return F.linear(projected, self.bands.embeddings[band], self.biases[band]).float()
