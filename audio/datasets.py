"""Data sets of clips as torch indexes them, in the order of torchaudio's tuples; and torchaudio's own downloads."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from audio import waveform
from audio.clip_header import ClipError
from audio.config import DataConfig
from audio.layouts import Label, find_sources
from training.errors import InputError

LIBRISPEECH_PARTS = ("train-clean-100", "dev-clean", "test-clean")


class ClipDataset(Dataset[tuple[Tensor | Label, ...]]):
    """The clips of one split: item i is (waveform (1, N) float32, rate, *labels).

    The labels are those of torchaudio: ljspeech (transcript, normalised transcript); librispeech (transcript, speaker,
    chapter, utterance); speechcommands (word, speaker, number); folder (name).
    """

    def __init__(self, config: DataConfig, split: str = "train") -> None:
        """Raises InputError for a data set that is not there or not in its layout."""
        self.config = config
        self.sources = [source for source in find_sources(config) if source.split == split]

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, index: int) -> tuple[Tensor | Label, ...]:
        """Raises InputError for a clip that cannot be used."""
        source = self.sources[index]
        try:
            if source.problem:
                raise ClipError(source.problem)
            clip = waveform.read(source.path, self.config.formats)
        except ClipError as error:
            raise InputError(f"{source.path}: {error}") from error
        return torch.from_numpy(clip.samples)[None], clip.rate, *source.labels


def download(config: DataConfig) -> None:
    """Let torchaudio fetch a data set of its own to `data.path`, which must be named as torchaudio names it.

    Raises InputError where it cannot.
    """
    torchaudio, path = waveform.torchaudio_module(), Path(config.path)
    if torchaudio is None:
        raise InputError("data.download: torchaudio does not import here")
    names = {
        "ljspeech": ("LJSpeech-1.1",),
        "librispeech": ("LibriSpeech",),
        "speechcommands": ("SpeechCommands", "speech_commands_v0.02"),
    }.get(config.layout)
    if names is None:
        raise InputError(f"data.download: torchaudio has no data set in the layout {config.layout}")
    if path.parts[-len(names) :] != names:
        raise InputError(f"data.download: expected data.path to end in {'/'.join(names)}, got {config.path}")
    root = path.parents[len(names) - 1]
    root.mkdir(parents=True, exist_ok=True)
    try:
        if config.layout == "ljspeech":
            torchaudio.datasets.LJSPEECH(root, download=True)
        elif config.layout == "speechcommands":
            torchaudio.datasets.SPEECHCOMMANDS(root, url=names[-1], download=True)
        else:
            for part in LIBRISPEECH_PARTS:
                torchaudio.datasets.LIBRISPEECH(root, url=part, download=True)
    except (OSError, RuntimeError) as error:  # no network, no space, or another checksum
        raise InputError(f"data.download: torchaudio could not fetch {config.layout} to {root}: {error}") from error
