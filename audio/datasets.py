"""Data sets of clips as torch indexes them, in the order of torchaudio's tuples; and torchaudio's own downloads."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from audio import waveform
from audio.clip_header import ClipError
from audio.clips import convert, read_clips
from audio.config import DataConfig
from audio.layouts import Label, Source, find_sources
from audio.splits import assign_splits
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
        sources = find_sources(config)
        self.clips: list[tuple[Source, int]]
        """Sources, and which of the clips that they are cut into."""
        if config.clip_seconds is None and all(source.split for source in sources):
            self.clips = [(source, 0) for source in sources if source.split == split]
        else:  # as a corpus deals them: over the clips that can be used
            usable = [(source, part) for source in sources for part in range(_count_clips(source, config))]
            splits = assign_splits(config, [source for source, _ in usable])
            self.clips = [clip for name, clip in zip(splits, usable, strict=True) if name == split]

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> tuple[Tensor | Label, ...]:
        """Raises InputError for a clip that cannot be used."""
        source, part = self.clips[index]
        try:
            clip = list(read_clips(source, self.config))[part]
        except ClipError as error:
            raise InputError(f"{source.path}: {error}") from error
        return torch.from_numpy(clip.samples)[None], clip.rate, *source.labels


def _count_clips(source: Source, config: DataConfig) -> int:
    """How many clips of a source can be used."""
    try:
        return sum(len(convert(clip, config)) > 0 for clip in read_clips(source, config))
    except ClipError:
        return 0


def download_if_missing(config: DataConfig) -> None:
    """Where `data.download` allows it, let torchaudio fetch a data set of its own to a `data.path` that is missing.

    The path must be named as torchaudio names it. Raises InputError where the data set cannot be fetched.
    """
    if not config.download or Path(config.path).exists():
        return
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
