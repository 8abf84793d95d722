"""Reading clips: what is written is what is read, and every way a file can lie is refused with its reason."""

from __future__ import annotations

import importlib
import os
import resource
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from audio import waveform
from audio.clip_header import ClipError
from tests.audio.synthetic import noise, sine

RATE = 8_000
TONE = sine(400, seconds=0.1, rate=RATE)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
@pytest.mark.parametrize("channels", [1, 2, 8])
def test_a_wav_is_read_as_it_was_written(tmp_path: Path, subtype: str, channels: int) -> None:
    frames = np.stack([TONE * (channel + 1) / channels for channel in range(channels)], axis=1)
    kind = "WAVEX" if channels > 2 else "WAV"
    soundfile.write(tmp_path / "clip.wav", frames, RATE, subtype=subtype, format=kind)
    clip = waveform.read(tmp_path / "clip.wav")
    assert clip.rate == RATE
    assert clip.samples.dtype == np.float32
    np.testing.assert_allclose(clip.samples, frames.mean(axis=1), atol=2**-7 if subtype == "PCM_U8" else 2**-15)


@pytest.mark.parametrize("subtype", ["PCM_S8", "PCM_16", "PCM_24"])
def test_a_flac_is_read_and_its_checksum_is_checked(tmp_path: Path, subtype: str) -> None:
    path = tmp_path / "clip.flac"
    soundfile.write(path, np.stack([TONE, -TONE / 2], axis=1), RATE, subtype=subtype)
    np.testing.assert_allclose(waveform.read(path).samples, TONE / 4, atol=2**-7 if subtype == "PCM_S8" else 2**-15)
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
    "a riff size that lies": (wav(riff=2**31), "declares 2147483656 bytes"),
    "two chunks of samples": (wav(extra=b"data" + struct.pack("<I", 2) + bytes(2)), "two chunks of samples"),
    "unstated, half a sample": (wav(bytes(201), riff=2**32 - 1, size=2**32 - 1), "are not whole frames of 2"),
    "unstated and empty": (wav(b"", riff=0, size=0), "holds no samples"),
    "16-bit float": (wav(tag=3, bits=16), "format 3 with 16 bits"),
    "12 bits": (wav(bits=12, align=2), "format 1 with 12 bits"),
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


def test_bits_that_are_not_used_change_no_sample(tmp_path: Path) -> None:
    """24 valid bits in 32, as WAVE_FORMAT_EXTENSIBLE has them: the upper ones."""
    values = [0, 2**22, -(2**23), 2**23 - 1]
    data = struct.pack("<4i", *(value << 8 for value in values))
    form = struct.pack("<HHIIHHHHIH14s", 0xFFFE, 1, RATE, RATE * 4, 4, 32, 22, 24, 4, 1,
                       bytes.fromhex("000000001000800000aa00389b71"))  # fmt: skip
    chunks = b"fmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", len(data)) + data
    (tmp_path / "clip.wav").write_bytes(b"RIFF" + struct.pack("<I", len(chunks) + 4) + b"WAVE" + chunks)
    assert waveform.read(tmp_path / "clip.wav").samples.tolist() == [0, 0.5, -1, np.float32((2**23 - 1) / 2**23)]


@pytest.mark.parametrize("unstated", [0, 2**32 - 1])
def test_a_wav_from_a_pipe_is_read_to_its_end_and_says_so(tmp_path: Path, unstated: int) -> None:
    data = struct.pack("<4h", 0, 16_384, -32_768, 8_192)
    (tmp_path / "clip.wav").write_bytes(wav(data, riff=unstated, size=unstated))
    clip = waveform.read(tmp_path / "clip.wav")
    assert clip.samples.tolist() == [0, 0.5, -1, 0.25]
    assert not clip.is_stated
    (tmp_path / "clip.wav").write_bytes(wav(data, riff=unstated) + b"LIST" + struct.pack("<I", 2) + b"ab")
    clip = waveform.read(tmp_path / "clip.wav")
    assert len(clip.samples) == 4
    assert clip.is_stated, "the chunk of its samples says how many they are"


def without_length(raw: bytes) -> bytes:
    """A FLAC file as an encoder leaves it that writes to a pipe: no number of samples, no checksum of them."""
    fields = int.from_bytes(raw[18:26]) >> 36 << 36
    return raw[:18] + fields.to_bytes(8) + bytes(16) + raw[42:]


@pytest.mark.parametrize("count", [1, 15, 300, 4_096, 4_097, 20_000])
@pytest.mark.parametrize(("rate", "channels", "subtype"), [(8_000, 1, "PCM_16"), (12_345, 3, "PCM_24")])
def test_a_flac_from_a_pipe_is_read_to_its_end_and_refused_if_cut_in_a_frame(
    tmp_path: Path, count: int, rate: int, channels: int, subtype: str
) -> None:
    whole, piped = tmp_path / "whole.flac", tmp_path / "piped.flac"
    sound = noise(count / rate, rate)[:, None] * np.linspace(0.5, 1, channels)
    soundfile.write(whole, sound, rate, subtype=subtype)
    piped.write_bytes(without_length(whole.read_bytes()))
    expected, clip = waveform.read(whole), waveform.read(piped)
    assert (clip.samples == expected.samples).all()
    assert (clip.is_stated, expected.is_stated) == (False, True)
    piped.write_bytes(piped.read_bytes()[:-1])
    with pytest.raises(ClipError, match="states no length, and its last frame is not whole"):
        waveform.read(piped)


@pytest.mark.parametrize(
    ("name", "start", "words"),
    [
        ("a.wav", b"ID3\4\0\0\0\0\0\0\0\0", "is not a RIFF/WAVE file but MP3; ffmpeg -i IN OUT.wav converts it"),
        ("a.wav", b"\xff\xfb\x90\x64" * 9, "but MP3"),
        ("a.wav", b"OggS\0\2" + bytes(30), "but Ogg"),
        ("a.flac", b"\0\0\0\x20ftypM4A " * 3, "is not a FLAC file but MP4"),
        ("a.mp3", b"ID3" + bytes(30), "is not one of the formats wav, flac; ffmpeg -i IN OUT.wav converts any sound"),
    ],
)
def test_another_format_is_named_with_what_converts_it(tmp_path: Path, name: str, start: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(start)
    with pytest.raises(ClipError) as caught:
        waveform.read(tmp_path / name)
    assert words in str(caught.value)


@given(count=st.integers(1, 500), seconds=st.floats(1e-4, 1), ending=st.sampled_from(["wav", "flac"]))
def test_a_clip_is_cut_into_the_fewest_parts_of_equal_length(
    tmp_path_factory: pytest.TempPathFactory, count: int, seconds: float, ending: str
) -> None:
    path = tmp_path_factory.mktemp("parts") / f"clip.{ending}"
    soundfile.write(path, noise(count / 1_000, 1_000), 1_000)
    parts = [part.samples for part in waveform.read_parts(path, seconds=seconds)]
    assert (np.concatenate(parts) == waveform.read(path).samples).all()
    lengths = [len(part) for part in parts]
    assert max(lengths) - min(lengths) <= 1
    assert max(lengths) < seconds * 1_000 + 1
    assert (len(parts) - 1) * max(seconds * 1_000, 1) < count


@pytest.mark.parametrize("ending", ["wav", "flac", "ogg"])
def test_a_recording_of_any_length_is_read_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    path = tmp_path / f"clip.{ending}"
    soundfile.write(path, noise(1, RATE)[:, None].repeat(2, 1), RATE)
    whole = waveform.read(path, (ending,)).samples
    monkeypatch.setattr(waveform, "MAX_SAMPLES", 2_000)
    with pytest.raises(ClipError, match=r"8000 x 2 samples, expected at most 2000; data\.clip_seconds=10 cuts it"):
        waveform.read(path, (ending,))
    parts = [part.samples for part in waveform.read_parts(path, (ending,), seconds=0.1)]
    assert [len(part) for part in parts] == [800] * 10
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_a_recording_is_unpacked_a_block_at_a_time(tmp_path: Path) -> None:
    """A few kilobytes of FLAC may hold half a gigabyte: in memory is the one channel that is kept."""
    count, channels, path = 2**20, 8, tmp_path / "silence.flac"
    with soundfile.SoundFile(path, "w", RATE, channels, subtype="PCM_16") as file:
        for _ in range(16):
            file.write(np.zeros((count // 16, channels), np.int16))
    assert path.stat().st_size < count * channels / 100
    tracemalloc.start()
    try:
        samples = waveform.read(path).samples
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert samples.shape == (count,)
    assert not samples.any()
    assert peak < samples.nbytes + 6 * waveform.BLOCK * channels * 4


@pytest.mark.parametrize("ending", ["wav", "flac", "ogg"])
def test_no_decoder_calls_python_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str) -> None:
    """The exception of a signal that meets such a call is printed and lost, and the clip said to be broken."""

    def fail(*arguments: object) -> None:
        raise AssertionError("reads through calls of Python")

    path = tmp_path / f"clip.{ending}"
    soundfile.write(path, TONE, RATE)
    monkeypatch.setattr(soundfile.SoundFile, "_init_virtual_io", fail)
    assert waveform.read(path, (ending,)).samples.shape == TONE.shape
    if ending == "flac":
        path.write_bytes(without_length(path.read_bytes()))
        assert waveform.read(path).samples.shape == TONE.shape


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
