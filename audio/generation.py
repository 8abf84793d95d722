"""Generation of sound: one sample a step, many streams side by side."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from audio import waveform
from audio.clip_header import ClipError
from audio.quantiser import Quantiser
from lm.errors import InputError
from lm.generation import TokenStream
from lm.lanes import as_int64
from lm.model import Head, LanguageModel, Sampling
from lm.softmax import CategoricalHead, sampling_probabilities


class Generated(NamedTuple):
    """What a model wrote in B streams of N samples."""

    codes: Tensor
    """(B, N) int64."""
    nats: Tensor
    """(B,) float64, - log p of the codes of each stream, whatever the temperature they were drawn with."""

    @property
    def bits_per_sample(self) -> Tensor:
        """(B,)"""
        return self.nats / math.log(2) / max(self.codes.shape[1], 1)


@torch.no_grad()
def generate(
    model: LanguageModel, prompts: Tensor, num_samples: int, sampling: Sampling, generator: torch.Generator
) -> Generated:
    """Go on from prompts (B, P) int64, P >= 0, each the beginning of a clip, for `num_samples` samples.

    The model is left in evaluation mode. Raises ValueError for a setting that its head cannot follow.
    """
    stream = TokenStream(model, len(prompts))
    y = stream.read(prompts)
    codes = torch.zeros(len(prompts), num_samples, dtype=torch.int64)
    nats = torch.zeros(len(prompts), dtype=torch.float64)
    for step in range(num_samples):
        drawn, cost = _draw(model.head, y, sampling, generator)
        codes[:, step] = drawn
        nats += cost
        if step + 1 < num_samples:
            y = stream.step(drawn)
    return Generated(codes, nats)


def _draw(head: Head, y: Tensor, sampling: Sampling, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Codes (B,) from outputs (B, D), and what the model makes them cost in nats (B,)."""
    if not isinstance(head, CategoricalHead):
        drawn = head.sample(y, sampling, generator)
        return drawn, head.losses(y, drawn).double()
    log_probabilities = head.log_probabilities(y)
    plain = sampling == Sampling()  # then the sorting is saved
    weights = log_probabilities.exp() if plain else sampling_probabilities(log_probabilities, sampling)
    drawn = torch.multinomial(weights, 1, generator=generator)
    return drawn[:, 0], -log_probabilities.gather(1, drawn)[:, 0].double()


def read_prompt(path: Path, quantiser: Quantiser, rate: int, gain: float) -> Tensor:
    """The codes (P,) int64 of a WAV or FLAC file; raises InputError for one that cannot be used at this rate."""
    try:
        clip = waveform.read(path)
    except ClipError as error:
        raise InputError(f"--prompt: {path}: {error}") from error
    if clip.rate != rate:
        raise InputError(f"--prompt: {path}: has {clip.rate} samples a second, the model {rate}")
    return as_int64(quantiser.encode(clip.samples * clip.samples.dtype.type(gain)))
