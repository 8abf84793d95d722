"""Clips as samples: read with their header checked, mixed to mono, resampled, trimmed, written.

Libraries that are slow to import, or that may not import at all beside some builds of torch, are imported where used.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import io
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from audio.clip_header import MAX_SAMPLES, ClipError, Header, read_flac_header, read_wav_header, write_flac_length
from audio.flac_length import count_samples
from training.files import WrongKindError, open_regular, write_file

Samples = NDArray[np.float32]
"""(N,) samples of one channel, full scale at 1."""

MAX_AMPLITUDE = 8.0
"""A float sample may go over full scale, as mixes do; further out it is not scaled to [-1, 1] at all."""
BLOCK = 2**16
"""Frames decoded at a time: half a megabyte of a FLAC file may hold half a gigabyte of silence."""
RESAMPLER = "soxr HQ"
"""How `resample` converts, for what a corpus was made with."""


class Clip(NamedTuple):
    """One channel of sound."""

    samples: Samples
    rate: int
    """Samples a second."""
    is_stated: bool = True
    """Whether its file states how long it is; else nothing confirms that it is whole."""


def read(path: Path, formats: Sequence[str] = ("wav", "flac")) -> Clip:
    """The clip of a file, its channels averaged.

    Raises ClipError for what is not a regular file of one of the formats (by its extension), whose header cannot be
    trusted, that has other samples than its header says, or samples that are not finite or out of all bounds.
    """
    (clip,) = read_parts(path, formats)
    return clip


def read_parts(path: Path, formats: Sequence[str] = ("wav", "flac"), seconds: float = math.inf) -> Iterator[Clip]:
    """The clip of a file in the fewest parts of equal length that are not longer than that, to within a sample.

    Only one part is held at a time, and one block of its channels. Raises ClipError as `read`, for what a part or the
    whole shows, where it shows.
    """
    suffix = path.suffix.lower().removeprefix(".")
    if suffix not in formats:
        raise ClipError(f"is not one of the formats {', '.join(formats)}; ffmpeg -i IN OUT.wav converts any sound")
    with open_clip(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size == 0:
            raise ClipError("is empty")
        decode = {"wav": _decode_wav, "flac": _decode_flac}.get(suffix, _decode_other)
        for samples, header in decode(file, size, seconds):
            yield Clip(samples, header.rate, header.is_stated)


def sha256(path: Path) -> str:
    """The SHA-256 of a regular file; raises ClipError for anything else."""
    with open_clip(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write(path: Path, samples: Samples, rate: int) -> None:
    """A WAV file of 16-bit PCM, samples clipped to [-1, 1]."""
    encoded = io.BytesIO()
    soundfile.write(encoded, samples.clip(-1, 1), rate, subtype="PCM_16", format="WAV")
    write_file(path, encoded.getvalue())


def resample(samples: Samples, rate: int, target_rate: int) -> Samples:
    """Samples at another rate, by soxr: what the target rate cannot hold is more than 100 dB down.

    Raises ClipError where that gives more than MAX_SAMPLES.
    """
    if rate == target_rate:
        return samples
    if len(samples) * target_rate > MAX_SAMPLES * rate:
        raise ClipError(f"has more than {MAX_SAMPLES} samples at {target_rate} samples a second; cut it up")
    return np.asarray(soxr.resample(samples, rate, target_rate, quality="HQ"), dtype=np.float32)


def trim(samples: Samples, decibels: float) -> Samples:
    """Without the beginning and end that are `decibels` below the loudest frame; a silent clip stays as it is."""
    librosa: Any = importlib.import_module("librosa")
    kept, _ = librosa.effects.trim(samples, top_db=decibels)
    return np.ascontiguousarray(kept)


def torchaudio_module() -> Any:
    """torchaudio, or None where it is missing or does not load beside the installed torch."""
    try:
        module: ModuleType = importlib.import_module("torchaudio")
    except (ImportError, OSError):
        return None
    return module


def open_clip(path: Path) -> io.BufferedReader:
    """The file of a clip; raises ClipError if it cannot be opened or is not a regular one."""
    try:
        return open_regular(path)
    except WrongKindError as error:
        raise ClipError(error.strerror) from error
    except OSError as error:
        raise ClipError(f"cannot be opened: {error.strerror or error}") from error


Parts = Iterator[tuple[Samples, Header]]
"""Of a file: (N,) each, and its header."""


def _decode_wav(file: io.BufferedReader, size: int, seconds: float) -> Parts:
    header = read_wav_header(file, size)
    file.seek(header.start)
    frame = header.channels * header.width

    def decode(count: int) -> NDArray[np.float32]:
        raw = file.read(count * frame)
        return _to_float(raw[: len(raw) // frame * frame], header).reshape(-1, header.channels)

    for length in _lengths(header, seconds):
        yield _read_part(decode, header, length), header


def _to_float(raw: bytes, header: Header) -> Samples:
    """(N,), the samples of all channels in the bytes of a WAV file."""
    if header.subtype in ("FLOAT", "DOUBLE"):
        with np.errstate(over="ignore"):  # infinity is refused later
            return np.frombuffer(raw, f"<f{header.width}").astype(np.float32)
    if header.subtype == "PCM_U8":
        return (np.frombuffer(raw, np.uint8).astype(np.float32) - np.float32(128)) * np.float32(2**-7)
    integers = np.zeros((len(raw) // header.width, 4), np.uint8)
    integers[:, 4 - header.width :] = np.frombuffer(raw, np.uint8).reshape(-1, header.width)
    return integers.view("<i4")[:, 0].astype(np.float32) * np.float32(2**-31)


def _decode_flac(file: io.BufferedReader, size: int, seconds: float) -> Parts:
    header = read_flac_header(file)
    with contextlib.ExitStack() as stack:
        whole: io.BufferedIOBase = file
        if not header.is_stated:
            file.seek(0)
            raw = file.read()
            header = replace(header, frames=count_samples(raw))
            whole = stack.enter_context(os.fdopen(os.memfd_create("flac"), "w+b"))
            whole.write(write_flac_length(raw, header.frames))
            whole.flush()
        sound = stack.enter_context(_open_sound(whole))
        width, digest = int(header.subtype.removeprefix("PCM_")) // 8, hashlib.md5(usedforsecurity=False)

        def decode(count: int) -> NDArray[np.float32]:
            integers = _read(sound, count, "int32")
            digest.update(integers.astype("<i4").view(np.uint8).reshape(-1, 4)[:, 4 - width :].tobytes())
            return integers.astype(np.float32) * np.float32(2**-31)

        for length in _lengths(header, seconds):
            yield _read_part(decode, header, length), header
    # RFC 9639, section 8.2
    if header.md5 and digest.digest() != header.md5:
        raise ClipError("its samples are not those that its checksum was made of")


def _decode_other(file: io.BufferedReader, size: int, seconds: float) -> Parts:
    with _open_sound(file) as sound:
        header = Header(sound.samplerate, sound.channels, sound.frames, sound.subtype).check()
        for length in _lengths(header, seconds):
            yield _read_part(lambda count: _read(sound, count, "float32"), header, length), header


def _lengths(header: Header, seconds: float) -> list[int]:
    """Frames of each part."""
    count = min(max(math.ceil(header.frames / (seconds * header.rate)), 1), header.frames)
    short, longer = divmod(header.frames, count)
    if (short + (longer > 0)) * header.channels > MAX_SAMPLES:
        raise ClipError(
            f"has {header.frames} x {header.channels} samples, expected at most {MAX_SAMPLES}; "
            "data.clip_seconds=10 cuts it into clips"
        )
    return [short + 1] * longer + [short] * (count - longer)


def _open_sound(file: io.BufferedIOBase) -> Any:
    """The sound of a file, from its beginning; it reads by the descriptor, as signals that meet Python code which a
    library calls back are lost."""
    os.lseek(file.fileno(), 0, os.SEEK_SET)
    try:
        return soundfile.SoundFile(file.fileno(), closefd=False)
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise ClipError(f"cannot be decoded: {error}") from error


def _read(sound: Any, count: int, dtype: str) -> NDArray[Any]:
    """(count, channels), the next frames of an open file; fewer where it ends."""
    try:
        return np.asarray(sound.read(count, dtype=dtype, always_2d=True))
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise ClipError(f"cannot be decoded: {error}") from error


def _read_part(decode: Callable[[int], NDArray[np.float32]], header: Header, length: int) -> Samples:
    """(length,), the next frames of a file, which `decode` gives (count, channels) of; their channels averaged."""
    samples = np.empty(length, np.float32)
    for start in range(0, length, BLOCK):
        count = min(BLOCK, length - start)
        frames = decode(count)
        if frames.shape != (count, header.channels):
            raise ClipError(
                f"declares {header.frames} x {header.channels} samples; of {length} x {header.channels}, "
                f"{start + frames.shape[0]} x {frames.shape[1]} are there"
            )
        if not np.isfinite(frames).all():
            raise ClipError("has samples that are not finite")
        peak = float(np.abs(frames).max())
        if peak > MAX_AMPLITUDE:
            raise ClipError(f"has a sample of {peak:.3g}, expected full scale at 1 and none beyond {MAX_AMPLITUDE:g}")
        samples[start : start + count] = frames.mean(axis=1, dtype=np.float32)
    return samples
