"""Reading clips: what is written is what is read, and every way a file can lie is refused with its reason."""

from __future__ import annotations

import importlib
import os
import resource
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from audio import waveform
from audio.clip_header import ClipError
from tests.audio.synthetic import sine

RATE = 8_000
TONE = sine(400, seconds=0.1, rate=RATE)


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "PCM_32", "FLOAT"])
@pytest.mark.parametrize("channels", [1, 2, 8])
def test_a_wav_is_read_as_it_was_written(tmp_path: Path, subtype: str, channels: int) -> None:
    frames = np.stack([TONE * (channel + 1) / channels for channel in range(channels)], axis=1)
    kind = "WAVEX" if channels > 2 else "WAV"
    soundfile.write(tmp_path / "clip.wav", frames, RATE, subtype=subtype, format=kind)
    clip = waveform.read(tmp_path / "clip.wav")
    assert clip.rate == RATE
    assert clip.samples.dtype == np.float32
    np.testing.assert_allclose(clip.samples, frames.mean(axis=1), atol=2**-15)


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24"])
def test_a_flac_is_read_and_its_checksum_is_checked(tmp_path: Path, subtype: str) -> None:
    path = tmp_path / "clip.flac"
    soundfile.write(path, np.stack([TONE, -TONE / 2], axis=1), RATE, subtype=subtype)
    np.testing.assert_allclose(waveform.read(path).samples, TONE / 4, atol=2**-15)
    raw = bytearray(path.read_bytes())
    raw[26] ^= 1  # the first byte of the MD5 in STREAMINFO
    path.write_bytes(raw)
    with pytest.raises(ClipError, match="checksum"):
        waveform.read(path)


@pytest.mark.parametrize("keep", [3, 20, 41, 200, -1])
def test_a_flac_cut_short_is_never_a_shorter_clip(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "clip.flac"
    soundfile.write(path, TONE, RATE)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ClipError):
        waveform.read(path)


def test_ogg_is_read_only_where_it_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "clip.ogg"
    soundfile.write(path, TONE, RATE)
    with pytest.raises(ClipError, match="not one of the formats wav, flac"):
        waveform.read(path)
    clip = waveform.read(path, formats=("ogg",))
    assert clip.samples.shape == TONE.shape
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(ClipError, match="cannot be decoded"):
        waveform.read(path, formats=("ogg",))


def wav(
    data: bytes = bytes(200),
    *,
    tag: int = 1,
    channels: int = 1,
    rate: int = RATE,
    bits: int = 16,
    riff: int | None = None,
    size: int | None = None,
    align: int | None = None,
    extra: bytes = b"",
) -> bytes:
    """A WAV file, each field of which can be made to lie."""
    align = channels * bits // 8 if align is None else align
    form = struct.pack("<HHIIHH", tag, channels, rate, rate * align % 2**32, align % 2**16, bits)
    chunks = b"fmt " + struct.pack("<I", len(form)) + form + extra
    chunks += b"data" + struct.pack("<I", len(data) if size is None else size) + data
    return b"RIFF" + struct.pack("<I", len(chunks) + 4 if riff is None else riff) + b"WAVE" + chunks


FLOAT = {"tag": 3, "bits": 32}
FAULTS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty"),
    "header only": (wav()[:12], "declares 244 bytes and has 12"),
    "half a format": (wav()[:30], "declares 244 bytes and has 30"),
    "cut in half": (wav()[:144], "declares 244 bytes and has 144"),
    "cut, with an honest sum": (wav(bytes(100), size=200), "its chunk b'data' declares 200 bytes, 100 are there"),
    "an odd byte": (wav() + b"x", "declares 244 bytes and has 245"),
    "half a sample": (wav(bytes(201)), "are not whole frames of 2"),
    "4 GiB declared": (wav(size=2**32 - 1), "declares 4294967295 bytes"),
    "a riff size that lies": (wav(riff=2**32 - 1), "declares 4294967303 bytes"),
    "8 bits": (wav(bits=8), "format 1 with 8 bits"),
    "64-bit float": (wav(tag=3, bits=64), "format 3 with 64 bits"),
    "ADPCM": (wav(tag=17, bits=4), "format 17 with 4 bits"),
    "0 bits": (wav(bits=0), "format 1 with 0 bits"),
    "1000 channels": (wav(channels=1000), "has 1000 channels, expected 1 to 8"),
    "no channel": (wav(channels=0, align=2), "has 0 channels"),
    "rate 0": (wav(rate=0), "has 0 samples a second"),
    "rate 2^31 - 1": (wav(rate=2**31 - 1), "has 2147483647 samples a second"),
    "frames that overlap": (wav(align=1), "declares frames of 1 bytes, expected 2"),
    "no frames": (wav(b""), "holds no samples"),
    "NaN": (wav(struct.pack("<3f", 0.1, float("nan"), 0), **FLOAT), "not finite"),  # type: ignore[arg-type]
    "infinity": (wav(struct.pack("<3f", 0.1, float("-inf"), 0), **FLOAT), "not finite"),  # type: ignore[arg-type]
    "integers as float": (wav(struct.pack("<2f", 12_000, -3), **FLOAT), "sample of 1.2e+04"),  # type: ignore[arg-type]
    "samples before the format": (b"RIFF" + struct.pack("<I", 16) + b"WAVEdata" + struct.pack("<I", 4) + bytes(4),
                                  "no format before its samples"),
    "no samples at all": (b"RIFF" + struct.pack("<I", 4) + b"WAVE", "ends inside a chunk header"),
    "many chunks": (wav(extra=(b"junk" + bytes(4)) * 500), "no samples in its first 100 chunks"),
    "text": (b"This is no sound, but it is longer than a header.", "is not a RIFF/WAVE file"),
    "random": (np.random.default_rng(0).bytes(500), "is not a RIFF/WAVE file"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wav_that_lies_is_refused(tmp_path: Path, fault: str) -> None:
    raw, reason = FAULTS[fault]
    (tmp_path / "clip.wav").write_bytes(raw)
    with pytest.raises(ClipError) as caught:
        waveform.read(tmp_path / "clip.wav")
    assert reason in str(caught.value)


def test_an_honest_wav_built_by_hand_is_read(tmp_path: Path) -> None:
    data = struct.pack("<4h", 0, 16_384, -32_768, 32_767)
    for extra in (b"", b"LIST" + struct.pack("<I", 3) + b"abc\0"):
        (tmp_path / "clip.wav").write_bytes(wav(data, extra=extra))
        assert waveform.read(tmp_path / "clip.wav").samples.tolist() == [0, 0.5, -1, 32_767 / 32_768]


def fifo(path: Path) -> None:
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.mkdir()


def dangling(path: Path) -> None:
    path.symlink_to(path.with_name("nowhere.wav"))


def looping(path: Path) -> None:
    path.symlink_to(path)


@pytest.mark.parametrize(
    ("make", "reason"),
    [(fifo, "not a regular file"), (folder, "not a regular file"), (dangling, "No such file"), (looping, "symbolic")],
)
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, make: Callable[[Path], None], reason: str) -> None:
    make(tmp_path / "clip.wav")
    for reader in (waveform.read, waveform.sha256):
        with pytest.raises(ClipError, match=reason):
            reader(tmp_path / "clip.wav")


@given(raw=st.binary(max_size=120), start=st.integers(0, 60))
def test_no_bytes_in_a_header_do_more_than_raise(
    tmp_path_factory: pytest.TempPathFactory, raw: bytes, start: int
) -> None:
    path = tmp_path_factory.mktemp("bytes") / "clip.wav"
    honest = wav()
    path.write_bytes(honest[:start] + raw + honest[start + len(raw) :])
    try:
        clip = waveform.read(path)
    except ClipError:
        return
    assert len(clip.samples) > 0


def level(samples: waveform.Samples) -> float:
    """The largest sample in dB of full scale."""
    return 20 * float(np.log10(np.abs(samples).max() + 1e-12))


@settings(max_examples=60, deadline=None)
@given(
    rate=st.one_of(st.sampled_from([8_000, 11_025, 16_000, 44_100, 48_000]), st.integers(2_000, 60_000)),
    target=st.one_of(st.sampled_from([8_000, 16_000, 22_050, 24_000]), st.integers(2_000, 60_000)),
    place=st.floats(0, 1),
)
def test_resampling_keeps_what_the_rate_holds_and_drops_the_rest(rate: int, target: int, place: float) -> None:
    """Under -60 dB from the new Nyquist frequency on; within 0.1 dB up to 0.9 of the lower one."""
    seconds, lower = 1, min(rate, target) / 2
    ends = slice(target // 10, -(target // 10))  # where a tone that begins and ends at once holds other frequencies
    kept = 0.02 * lower + 0.88 * lower * place
    held = waveform.resample(sine(kept, seconds, rate), rate, target)
    assert abs(len(held) - seconds * target) <= 1
    assert held.dtype == np.float32
    expected = sine(kept, seconds + 0.1, target)[: len(held)]
    np.testing.assert_allclose(held[ends], expected[ends], atol=0.5 * 0.0116)
    if target < rate:
        beyond = target / 2 + (rate / 2 - target / 2) * place
        assert level(waveform.resample(sine(beyond, seconds, rate, amplitude=1.0), rate, target)[ends]) < -60


def test_resampling_between_coprime_rates_takes_little_memory() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB
    held = waveform.resample(sine(300, 1, 44_099), 44_099, 16_000)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024
    assert len(held) == 16_000


def test_a_clip_is_not_resampled_to_more_than_a_clip_may_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waveform, "MAX_SAMPLES", 10_000)
    with pytest.raises(ClipError, match="more than 10000 samples at 48000"):
        waveform.resample(np.zeros(8_000, np.float32), 8_000, 48_000)


@pytest.mark.parametrize("error", [ImportError, OSError])
def test_a_torchaudio_that_does_not_load_is_done_without(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def refuse(name: str) -> None:
        raise error("undefined symbol")

    monkeypatch.setattr(importlib, "import_module", refuse)
    assert waveform.torchaudio_module() is None


def test_trimming_takes_silence_from_both_ends() -> None:
    padded = np.concatenate([np.zeros(4_000), TONE, np.zeros(6_000)]).astype(np.float32)
    trimmed = waveform.trim(padded, 40)
    assert len(TONE) <= len(trimmed) <= len(TONE) + 4_096
    assert len(waveform.trim(np.zeros(5_000, np.float32), 40)) == 5_000


def test_written_clips_are_read_back_and_clipped(tmp_path: Path) -> None:
    waveform.write(tmp_path / "clip.wav", np.float32([0.25, 3.0, -2.0]), 24_000)
    clip = waveform.read(tmp_path / "clip.wav")
    assert clip.rate == 24_000
    np.testing.assert_allclose(clip.samples, [0.25, 1, -1], atol=2**-14)
