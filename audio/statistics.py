"""Statistics of a clip that tell speech from noise and silence.

A frame is 50 ms, frames do not overlap, and a last part of a frame is left out unless it is all there is. The spectral
flatness of a frame is the geometric over the arithmetic mean of its power spectrum (Hann window): near 0 for a tone,
0.56 on average for white noise. A clip's flatness is that of its frames weighted by their power: pauses do not count.

Runaway noise. A model that generates for long may drift into loud noise and stay there. A frame is runaway if it is
at least as loud as the median real frame and flatter than 99 % of the real frames that are at least that loud. So about
one real frame in 200 is runaway, and nearly every frame of a stream that has drifted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from audio.waveform import Samples

FRAME_SECONDS = 0.05
QUIET = 1e-10
"""Added to power, so that digital silence has a flatness: 1."""

Array = NDArray[np.float64]


class ClipStatistics(NamedTuple):
    """Statistics of one clip."""

    rms: float
    """Root mean square, full scale at 1."""
    zero_crossing_rate: float
    """Fraction of neighbouring samples whose signs differ."""
    spectral_flatness: float
    """Geometric over arithmetic mean of the power spectrum, 0 to 1."""


class Frames(NamedTuple):
    """Statistics of each frame of a clip, both (frames,)."""

    rms: Array
    flatness: Array


def describe(samples: Samples, rate: int) -> ClipStatistics:
    """The statistics of samples (N,), N >= 1.

    A tone crosses zero regularly and is not flat; white noise crosses at half of all samples and is:

    >>> tone = np.sin(0.3 * np.arange(8000)).astype(np.float32)
    >>> noise = np.random.default_rng(0).uniform(-1, 1, 8000).astype(np.float32)
    >>> [round(describe(samples, rate=8000).spectral_flatness, 1) for samples in (tone, noise)]
    [0.0, 0.6]
    """
    frames = frames_of(samples, rate)
    negative = np.signbit(samples)
    return ClipStatistics(
        rms=float(np.sqrt(np.mean(np.square(samples, dtype=np.float64)))),
        zero_crossing_rate=float(np.mean(negative[1:] != negative[:-1])) if len(samples) > 1 else 0.0,
        spectral_flatness=float(np.average(frames.flatness, weights=np.square(frames.rms) + QUIET)),
    )


def frames_of(samples: Samples, rate: int) -> Frames:
    """Loudness and flatness of each frame of samples (N,), N >= 1."""
    length = max(round(FRAME_SECONDS * rate), 2)
    if len(samples) < length:
        samples = np.pad(samples, (0, length - len(samples)))
    count = len(samples) // length
    frames = samples[: count * length].astype(np.float64).reshape(count, length)
    power = np.square(np.abs(np.fft.rfft(frames * np.hanning(length), axis=1)))[:, 1:] + QUIET
    flatness = np.exp(np.log(power).mean(axis=1)) / power.mean(axis=1)
    return Frames(np.sqrt(np.square(frames).mean(axis=1)), flatness)


class RunawayNoise:
    """Finds runaway noise, measured against real clips."""

    def __init__(self, real: Sequence[Samples], rate: int) -> None:
        self.rate = rate
        frames = [frames_of(samples, rate) for samples in real]
        loudness = np.concatenate([frame.rms for frame in frames])
        flatness = np.concatenate([frame.flatness for frame in frames])
        self.loud = float(np.median(loudness))
        self.flat = float(np.quantile(flatness[loudness >= self.loud], 0.99))

    def share(self, samples: Samples) -> float:
        """The fraction of frames of samples (N,), N >= 1, that are runaway noise."""
        frames = frames_of(samples, self.rate)
        return float(np.mean((frames.rms >= self.loud) & (frames.flatness > self.flat)))
