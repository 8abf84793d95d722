"""Mu-law: torchaudio's codes, and an error that its bound holds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from audio import mu_law
from audio.waveform import torchaudio_module

SWEEP = np.concatenate([np.linspace(-1, 1, 20_001), np.random.default_rng(0).normal(0, 0.05, 20_000).clip(-1, 1)])


def test_codes_and_samples_are_torchaudios() -> None:
    torchaudio = torchaudio_module()
    if torchaudio is None:
        pytest.skip("torchaudio does not import beside this torch")
    codes = torchaudio.functional.mu_law_encoding(torch.from_numpy(SWEEP), 256)
    assert mu_law.encode(SWEEP).tolist() == codes.tolist()
    samples = torchaudio.functional.mu_law_decoding(torch.arange(256), 256)
    np.testing.assert_allclose(mu_law.decode(np.arange(256)), samples.numpy(), atol=1e-6)


@given(x=st.floats(-1, 1))
def test_a_round_trip_stays_within_its_bound(x: float) -> None:
    sample = np.array([x])
    error = abs(float(mu_law.decode(mu_law.encode(sample))[0]) - x)
    assert error <= float(mu_law.error_bound(sample)[0]) + 1e-7


def test_the_bound_is_not_loose() -> None:
    error = np.abs(mu_law.decode(mu_law.encode(SWEEP)) - SWEEP)
    assert (error <= mu_law.error_bound(SWEEP) + 1e-7).all()
    assert (error / mu_law.error_bound(SWEEP)).max() > 0.95


def test_every_code_decodes_to_a_sample_of_its_own_code_and_all_are_used() -> None:
    codes = np.arange(256)
    assert mu_law.encode(mu_law.decode(codes)).tolist() == codes.tolist()
    assert np.unique(mu_law.encode(np.linspace(-1, 1, 100_001))).tolist() == codes.tolist()


def test_silence_full_scale_and_beyond_are_defined() -> None:
    assert mu_law.decode(mu_law.encode(np.zeros(3))).max() < 1e-3
    square = np.tile(np.array([1.0, -1.0]), 50)
    np.testing.assert_allclose(mu_law.decode(mu_law.encode(square)), square, atol=1e-6)
    assert mu_law.encode(np.array([5.0, -5.0])).tolist() == [255, 0]


def test_long_clips_are_encoded_alike_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = mu_law.encode(SWEEP)
    monkeypatch.setattr(mu_law, "PIECE", 777)
    assert np.array_equal(mu_law.encode(SWEEP), whole)
