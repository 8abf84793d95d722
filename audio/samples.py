"""Audio samples of a model in training: continuations of real clips and clips from nothing, with the real ones."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from audio import waveform
from audio.config import AudioSamplesConfig, ExperimentConfig
from audio.corpus import AudioCorpus
from audio.generation import Generated, generate
from audio.statistics import RunawayNoise, describe
from audio.waveform import Samples
from lm.evaluation import outputs
from lm.lanes import as_int64
from lm.model import LanguageModel, Sampling
from lm.trainer import NextTokenTrainer
from training.averaging import use_average
from training.errors import InputError
from training.files import make_folder, write_file
from training.held_out import Check, evaluation_mode, never_stop

KINDS = ("real", "continued", "free")
MAX_REAL_CLIPS = 100
"""Clips of the validation split by which runaway noise is measured."""


class SampleClip(NamedTuple):
    """One clip, real or generated."""

    name: str
    """KIND-INDEX"""
    samples: Samples
    """(N,) in [-1, 1], with the prompt where there is one."""
    figures: dict[str, float]
    """Statistics of the part after the prompt, by name."""


@dataclass(frozen=True)
class AudioSamples:
    """The clips of one step of training."""

    rate: int
    clips: list[SampleClip]

    @property
    def metrics(self) -> dict[str, float]:
        """The mean figures of each kind of clip, by TensorBoard tag."""
        metrics = {}
        for kind in KINDS:
            figures = [clip.figures for clip in self.clips if clip.name.startswith(kind)]
            for name in figures[0]:
                metrics[f"{kind}/{name}"] = sum(entry[name] for entry in figures) / len(figures)
        return metrics

    def picture(self) -> NDArray[np.uint8]:
        """Log-mel spectrograms (height, width, 3), one column an index: the real clip above the generated ones."""
        return log_mel_picture([[c for c in self.clips if c.name.startswith(kind)] for kind in KINDS], self.rate)

    def save(self, folder: Path) -> None:
        """Write every clip as WAV, and its figures as a line of clips.jsonl; raises OSError."""
        make_folder(folder)
        for clip in self.clips:
            waveform.write(folder / f"{clip.name}.wav", clip.samples, self.rate)
        lines = [json.dumps({"clip": clip.name, **clip.figures}) for clip in self.clips]
        write_file(folder / "clips.jsonl", ("\n".join(lines) + "\n").encode())


class AudioSampler:
    """Generates clips with the model of a trainer; what it draws depends on the seed and the update alone."""

    def __init__(self, config: ExperimentConfig, samples: AudioSamplesConfig, corpus: AudioCorpus) -> None:
        """Raises InputError where no clip of the validation split is longer than one sample."""
        self.corpus, self.seed = corpus, config.train.seed
        self.num_samples = max(round(samples.seconds * corpus.rate), 1)
        self.num_prompt = max(round(samples.prompt_seconds * corpus.rate), 1)
        split = corpus.splits["validation"]
        borders = [*split.starts.tolist(), len(split.tokens)]
        documents = [(start, stop) for start, stop in itertools.pairwise(borders) if stop - start > 1]
        if not documents:
            raise InputError("train.audio_samples: no clip of the validation split is longer than one sample")
        wanted = self.num_prompt + self.num_samples
        # The first clips that are long enough, and where there are too few of them, the longest.
        chosen = sorted(documents, key=lambda d: -min(d[1] - d[0], wanted))[: samples.clips]
        self.documents = [(start, min(stop, start + wanted)) for start, stop in chosen]
        shortest = min(stop - start for start, stop in self.documents)
        self.num_prompt = min(self.num_prompt, max(shortest // 2, 1))
        real = [self._decode(split.tokens[start:stop]) for start, stop in documents[:MAX_REAL_CLIPS]]
        self.runaway = RunawayNoise(real, corpus.rate)

    def sample(self, trainer: NextTokenTrainer, check: Check = never_stop) -> AudioSamples:
        """Clips of the model that a trainer would evaluate; changes neither the model nor torch's generator.

        `check` is called between two steps of generation.
        """
        model = trainer.model
        generator = torch.Generator().manual_seed(self.seed + 1_000_003 * trainer.update_count)
        tokens = self.corpus.splits["validation"].tokens
        real = [tokens[start:stop] for start, stop in self.documents]
        prompts = torch.stack([as_int64(codes[: self.num_prompt]) for codes in real])
        with use_average(model, trainer.average), evaluation_mode(model):
            bits = self._real_bits(model)
            continued = generate(model, prompts, self.num_samples, Sampling(), generator, check)
            free = generate(model, prompts[:, :0], self.num_samples, Sampling(), generator, check)
        clips = [
            SampleClip(f"real-{i}", self._decode(codes), self._figures(codes[self.num_prompt :], bits[i]))
            for i, codes in enumerate(real)
        ]
        clips += self._clips("continued", prompts, continued) + self._clips("free", prompts[:, :0], free)
        return AudioSamples(self.corpus.rate, clips)

    def _clips(self, kind: str, prompts: torch.Tensor, generated: Generated) -> list[SampleClip]:
        bits = generated.bits_per_sample.tolist()
        return [
            SampleClip(
                f"{kind}-{i}",
                self._decode(torch.cat([prompt, codes]).numpy()),
                self._figures(codes.numpy(), bits[i]),
            )
            for i, (prompt, codes) in enumerate(zip(prompts, generated.codes, strict=True))
        ]

    @torch.no_grad()
    def _real_bits(self, model: LanguageModel) -> list[float]:
        """Bits per sample of each real clip after its prompt."""
        split = self.corpus.splits["validation"]
        bits = []
        for document in self.documents:
            parts = [model.head.losses(y, targets)[0] for _, targets, y in outputs(model, split, [document])]
            bits.append(float(torch.cat(parts)[self.num_prompt :].double().mean()) / math.log(2))
        return bits

    def _figures(self, codes: NDArray[Any], bits_per_sample: float) -> dict[str, float]:
        samples = self._decode(codes)
        return {
            "bits_per_sample": bits_per_sample,
            **describe(samples, self.corpus.rate)._asdict(),
            "runaway_share": self.runaway.share(samples),
        }

    def _decode(self, codes: NDArray[Any]) -> Samples:
        return self.corpus.quantiser.decode(np.asarray(codes))


def log_mel_picture(rows: Sequence[Sequence[SampleClip]], rate: int) -> NDArray[np.uint8]:
    """Log-mel spectrograms (height, width, 3) of rows of clips, all in decibels below the loudest of all."""
    import librosa
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    window = 2 ** round(math.log2(rate * 0.04))
    bands = min(40, window // 6)  # more would leave some without a frequency
    spectra = [
        [
            librosa.feature.melspectrogram(
                y=np.pad(clip.samples, (0, max(window - len(clip.samples), 0))),
                sr=rate,
                n_fft=window,
                hop_length=window // 4,
                n_mels=bands,
            )
            for clip in row
        ]
        for row in rows
    ]
    loudest = max(float(spectrum.max()) for row in spectra for spectrum in row) or 1.0
    columns = max(map(len, rows))
    figure = Figure(figsize=(4 * columns, 2 * len(rows)), dpi=80, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    for place, (clips, row) in enumerate(zip(rows, spectra, strict=True)):
        for column, (clip, spectrum) in enumerate(zip(clips, row, strict=True)):
            panel = figure.add_subplot(len(rows), columns, place * columns + column + 1)
            decibels = 10 * np.log10(np.maximum(spectrum / loudest, 1e-8))
            extent = (0.0, len(clip.samples) / rate, 0.0, float(bands))
            panel.imshow(decibels, origin="lower", aspect="auto", vmin=-80, vmax=0, extent=extent)
            panel.set_title(clip.name, fontsize=8)
            panel.tick_params(labelsize=7)
    canvas.draw()  # type: ignore[no-untyped-call]
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()  # type: ignore[no-untyped-call]
