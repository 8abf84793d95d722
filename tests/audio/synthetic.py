"""Small sounds made up for tests."""

from __future__ import annotations

import numpy as np

from audio.waveform import Samples

RATE = 8_000


def sine(frequency: float, seconds: float, rate: int, amplitude: float = 0.5) -> Samples:
    """A tone from phase 0."""
    time = np.arange(round(seconds * rate)) / rate
    return (amplitude * np.sin(2 * np.pi * frequency * time)).astype(np.float32)


def noise(seconds: float, rate: int, seed: int = 0, amplitude: float = 0.1) -> Samples:
    """White Gaussian noise."""
    generator = np.random.default_rng(seed)
    return (amplitude * generator.standard_normal(round(seconds * rate))).clip(-1, 1).astype(np.float32)
