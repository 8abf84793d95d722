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
from audio.wavenet import WaveNet
from audio.wavenet_generation import Ends, generate_codes
from lm.generation import TokenStream
from lm.lanes import as_int64
from lm.model import Head, LanguageModel, Sampling
from lm.softmax import CategoricalHead, Softmax, TokenEmbedding, sampling_probabilities
from training.errors import InputError
from training.held_out import Check, never_stop
from training.progress import track


class Generated(NamedTuple):
    """B generated streams of `num_samples` samples each."""

    codes: Tensor
    """(B, num_samples) int64."""
    nats: Tensor
    """(B,) float64, - log p of the codes of each stream, whatever the temperature they were drawn with."""

    @property
    def bits_per_sample(self) -> Tensor:
        """(B,)"""
        return self.nats / math.log(2) / max(self.codes.shape[1], 1)


@torch.no_grad()
def generate(
    model: LanguageModel,
    prompts: Tensor,
    num_samples: int,
    sampling: Sampling,
    generator: torch.Generator,
    check: Check = never_stop,
) -> Generated:
    """Continue prompts (B, T) int64, T >= 0, each the beginning of a clip, by `num_samples` samples.

    WaveNet over codes runs in a compiled loop, unless top_k or top_p is asked for. `check` is called between two steps,
    or two calls of that loop. The model is left in evaluation mode. Raises ValueError for a setting that its head
    cannot follow.
    """
    stream = TokenStream(model, len(prompts))
    y = stream.read(prompts)
    ends = _compiled_ends(model) if sampling.top_k is None and sampling.top_p == 1 else None
    if ends is not None and isinstance(model.core, WaveNet):
        seed = int(torch.randint(2**31, (), generator=generator))
        logits = ends.softmax(ends.norm(y))
        state = stream.stream.state()
        drawn = generate_codes(model.core, ends, state, logits, num_samples, sampling.temperature, seed, check)
        return Generated(drawn.codes, -drawn.log_probabilities.double().sum(1))
    codes = torch.zeros(len(prompts), num_samples, dtype=torch.int64)
    nats = torch.zeros(len(prompts), dtype=torch.float64)
    for step in track(range(num_samples), what="generating", unit="samples"):
        check()
        codes[:, step], cost = _draw(model.head, y, sampling, generator)
        nats += cost
        if step + 1 < num_samples:
            y = stream.step(codes[:, step])
    return Generated(codes, nats)


def _compiled_ends(model: LanguageModel) -> Ends | None:
    """The embedding and the softmax of a model of codes, for WaveNet's compiled loop; None where it does not apply."""
    front_end, head = model.front_end, model.head
    if not isinstance(front_end, TokenEmbedding) or not isinstance(head, Softmax):
        return None
    if model.device.type != "cpu" or front_end.beginning.dtype != torch.float32:
        return None
    codes = torch.arange(front_end.embedding.num_embeddings)
    return Ends(front_end(codes, None), head.norm, head.linear)


def _draw(head: Head, y: Tensor, sampling: Sampling, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Codes (B,) drawn from outputs (B, D), and their - log p in nats (B,)."""
    if not isinstance(head, CategoricalHead):
        drawn = head.sample(y, sampling, generator)
        return drawn, head.losses(y, drawn.to(y.device)).cpu().double()
    log_probabilities = head.log_probabilities(y).cpu()  # where the generator is
    plain = sampling == Sampling()  # then the sorting is saved
    weights = log_probabilities.exp() if plain else sampling_probabilities(log_probabilities, sampling)
    drawn = torch.multinomial(weights, 1, generator=generator)
    return drawn[:, 0], -log_probabilities.gather(1, drawn)[:, 0].double()


def read_prompt(path: Path, quantiser: Quantiser, rate: int, gain: float) -> Tensor:
    """The codes (T,) int64 of a WAV or FLAC file; raises InputError for one that cannot be used at this rate."""
    try:
        clip = waveform.read(path)
    except ClipError as error:
        raise InputError(f"--prompt: {path}: {error}") from error
    if clip.rate != rate:
        raise InputError(f"--prompt: {path}: has {clip.rate} samples a second, the model {rate}")
    return as_int64(quantiser.encode(clip.samples * clip.samples.dtype.type(gain)))
