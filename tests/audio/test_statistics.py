"""Statistics that tell tones, noise and silence apart, and runaway noise from speech-like sound."""

from __future__ import annotations

import numpy as np
import pytest

from audio.statistics import RunawayNoise, describe
from audio.waveform import Samples
from tests.audio.synthetic import RATE, noise, sine


def test_a_tone_noise_and_silence_are_told_apart() -> None:
    tone, hiss, silence = sine(500, 1, RATE), noise(1, RATE), np.zeros(RATE, np.float32)
    assert describe(tone, RATE).rms == pytest.approx(0.5 / 2**0.5, rel=1e-3)
    assert describe(tone, RATE).zero_crossing_rate == pytest.approx(2 * 500 / RATE, rel=0.01)
    assert describe(tone, RATE).spectral_flatness < 1e-3
    assert describe(hiss, RATE).zero_crossing_rate == pytest.approx(0.5, abs=0.02)
    assert describe(hiss, RATE).spectral_flatness == pytest.approx(0.56, abs=0.03)
    assert describe(silence, RATE) == (0.0, 0.0, pytest.approx(1.0))
    assert describe(tone[:1], RATE).zero_crossing_rate == 0
    padded = np.concatenate([tone, np.zeros(RATE, np.float32)])
    assert describe(padded, RATE).spectral_flatness < 1e-3, "pauses do not count"


def utterance(seed: int) -> Samples:
    """Voiced sound, a quiet fricative and a pause, as speech has them."""
    return np.concatenate([
        sine(150 + 20 * seed, 0.4, RATE) + noise(0.4, RATE, seed, 0.01),
        noise(0.2, RATE, seed, 0.03),
        noise(0.2, RATE, seed, 0.001),
    ])  # fmt: skip


def test_runaway_noise_is_loud_and_flat() -> None:
    real = [utterance(seed) for seed in range(8)]
    runaway = RunawayNoise(real, RATE)
    assert np.mean([runaway.share(clip) for clip in real]) < 0.02
    assert runaway.share(noise(1, RATE, 9, 0.3)) == 1
    assert runaway.share(noise(1, RATE, 9, 0.001)) == 0, "quiet noise is breath"
    assert runaway.share(sine(300, 1, RATE)) == 0, "a loud tone is voice"
    half = np.concatenate([utterance(3), noise(0.8, RATE, 9, 0.3)])
    assert runaway.share(half) == pytest.approx(0.5, abs=0.1)
