"""Generation: one token a step through the core's stream, drawn by the model's head."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from lm.model import LanguageModel, Sampling

READ_LENGTH = 512
"""Steps of a prompt in one call of the model."""


class GeneratedToken(NamedTuple):
    """One token that was generated."""

    token: int
    log_probability: float
    """log p of the token under the model, in nats, whatever the temperature it was drawn with."""


@torch.no_grad()
def generate(
    model: LanguageModel, prompt: Tensor, num_tokens: int, sampling: Sampling, seed: int = 0
) -> Iterator[GeneratedToken]:
    """Generate tokens of a document that begins with prompt (N,) int64, which may be empty.

    >>> import memory_cores
    >>> from lm.softmax import Softmax, TokenEmbedding
    >>> model = LanguageModel(TokenEmbedding(10, 8), memory_cores.build("lstm", d_model=8), Softmax(10, 8))
    >>> tokens = generate(model, prompt=torch.tensor([1, 2, 3]), num_tokens=4, sampling=Sampling(temperature=0))
    >>> len(list(tokens))
    4
    """
    generator = torch.Generator().manual_seed(seed)
    stream = TokenStream(model, batch_size=1)
    y = stream.read(prompt[None])
    for count in range(num_tokens):
        token = model.head.sample(y, sampling, generator).to(y.device)
        yield GeneratedToken(int(token), -float(model.head.losses(y, token)))
        if count + 1 < num_tokens:
            y = stream.step(token)


class TokenStream:
    """Steps a language model through documents one token a call, with the weights it has now."""

    def __init__(self, model: LanguageModel, batch_size: int) -> None:
        self.model = model.eval()
        self.batch_size = batch_size
        self.stream = model.core.stream(batch_size)

    @torch.no_grad()
    def read(self, tokens: Tensor) -> Tensor:
        """Begin documents with tokens (B, T) int64, T >= 0 -> the core's output y (B, D) for the token after them."""
        tokens = tokens.to(self.model.device)
        inputs = torch.cat([tokens.new_zeros(self.batch_size, 1), tokens], dim=1)
        reset = torch.zeros(inputs.shape, dtype=torch.bool, device=inputs.device)
        reset[:, 0] = True
        state = self.model.core.initial_state(self.batch_size)
        # In pieces, so that a long prompt needs no more room than the memory.
        for start in range(0, inputs.shape[1], READ_LENGTH):
            part = slice(start, start + READ_LENGTH)
            core = self.model(inputs[:, part], state, reset[:, part])
            state = core.state
        self.stream.load(state)
        return core.y[:, -1]

    @torch.no_grad()
    def step(self, tokens: Tensor) -> Tensor:
        """Append tokens (B,) int64 -> the core's output y (B, D) for the token after them."""
        return self.stream.step(self.model.front_end(tokens.to(self.model.device), None))
