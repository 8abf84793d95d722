"""Generation: one token a step through the core's stream, sampled with temperature, top-k and top-p."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from lm.model import LanguageModel


@torch.no_grad()
def generate(
    model: LanguageModel,
    prompt: Tensor,
    num_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    seed: int = 0,
) -> Iterator[int]:
    """Sample the tokens of a document that begins with prompt (N,) int64, which may be empty.

    A temperature of 0 takes the likeliest token. Raises ValueError for a setting out of its bounds.
    """
    generator = torch.Generator().manual_seed(seed)
    stream = TokenStream(model, batch_size=1)
    logits = stream.read(prompt[None])
    for count in range(num_tokens):
        probabilities = sampling_probabilities(logits, temperature, top_k, top_p).cpu()
        token = torch.multinomial(probabilities, 1, generator=generator)[:, 0]
        yield int(token)
        if count + 1 < num_tokens:
            logits = stream.step(token)


class TokenStream:
    """Steps a language model through documents one token a call, with the weights it has now."""

    def __init__(self, model: LanguageModel, batch_size: int) -> None:
        self.model = model.eval()
        self.batch_size = batch_size
        self.stream = model.core.stream(batch_size)

    @torch.no_grad()
    def read(self, tokens: Tensor) -> Tensor:
        """Begin documents with tokens (B, N) int64, N >= 0 -> logits (B, V) of the token after them."""
        inputs = torch.cat([tokens.new_zeros(self.batch_size, 1), tokens], dim=1)
        reset = torch.zeros(inputs.shape, dtype=torch.bool, device=inputs.device)
        reset[:, 0] = True
        core = self.model.core(self.model.embed(inputs, reset), self.model.core.initial_state(self.batch_size), reset)
        self.stream.load(core.state)
        return self.model.logits(core.y[:, -1])

    @torch.no_grad()
    def step(self, tokens: Tensor) -> Tensor:
        """Go on with tokens (B,) int64 -> logits (B, V) of the token after them."""
        return self.model.logits(self.stream.step(self.model.embed(tokens, None)))


def sampling_probabilities(logits: Tensor, temperature: float, top_k: int | None, top_p: float) -> Tensor:
    """The probabilities (B, V) to sample with, from logits (B, V).

    The logits are divided by `temperature`; then only the `top_k` likeliest tokens are kept, and of these the
    fewest likeliest whose probabilities sum to at least `top_p` (nucleus sampling; Holtzman et al., 1904.09751).
    """
    if temperature < 0 or (top_k is not None and top_k < 1) or not 0 < top_p <= 1:
        raise ValueError(
            f"expected temperature >= 0, top_k >= 1 and 0 < top_p <= 1, got {temperature}, {top_k} and {top_p}"
        )
    if temperature == 0:
        return torch.zeros_like(logits).scatter_(1, logits.argmax(1, keepdim=True), 1.0)
    # From the largest down, so that a temperature near 0 is greedy and not infinity.
    ordered, tokens = ((logits.double() - logits.max(1, keepdim=True).values) / temperature).sort(
        dim=1, descending=True, stable=True
    )
    if top_k is not None:
        ordered[:, top_k:] = -torch.inf
    probabilities = ordered.softmax(1)
    # The likelier tokens' sum, so that the token which reaches top_p is kept, and always the first.
    before = probabilities.cumsum(1) - probabilities
    probabilities[before >= top_p] = 0.0
    probabilities /= probabilities.sum(1, keepdim=True)
    return torch.zeros_like(probabilities).scatter_(1, tokens, probabilities)
