"""The clips of a source: its recording read, cut on request, at the rate of the model."""

from __future__ import annotations

import math
from collections.abc import Iterator

from audio import waveform
from audio.clip_header import ClipError
from audio.config import DataConfig
from audio.layouts import Source
from audio.waveform import Clip, Samples


def read_clips(source: Source, config: DataConfig) -> Iterator[Clip]:
    """The recording of a source as one clip, or cut by `data.clip_seconds`; raises ClipError as `read_parts`."""
    if source.problem:
        raise ClipError(source.problem)
    yield from waveform.read_parts(source.path, config.formats, config.clip_seconds or math.inf)


def convert(clip: Clip, config: DataConfig) -> Samples:
    """The samples (N,) of a clip at the rate of the configuration, trimmed on request.

    Raises ClipError where the clip has another rate and is not to be resampled, or nothing is left of it.
    """
    samples = clip.samples
    if clip.rate != config.sample_rate:
        if not config.resample:
            raise ClipError(
                f"has {clip.rate} samples a second, expected data.sample_rate = {config.sample_rate}; "
                "data.resample=true converts it"
            )
        samples = waveform.resample(samples, clip.rate, config.sample_rate)
    if config.trim_db is not None:
        samples = waveform.trim(samples, config.trim_db)
    if not len(samples):
        raise ClipError("has no sample left at this rate")
    return samples
