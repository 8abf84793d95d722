"""The header of a sound file, read here before any decoder sees a byte.

libsndfile takes sizes, rates and channel counts on trust and reads a file cut short as a shorter clip without a word.
So a clip is described by its own header first, and is refused unless the header is whole, plausible and agrees with
the size of the file. WAV: RIFF chunks (IBM and Microsoft, Multimedia Programming Interface 1.0, 1991) with PCM of 16,
24 or 32 bits or 32-bit float, plain or extensible. FLAC: STREAMINFO (RFC 9639, section 8.2).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, BinaryIO

MAX_CHANNELS = 8
MIN_RATE, MAX_RATE = 1_000, 768_000
"""Samples a second."""
MAX_SAMPLES = 2**27
"""Of one clip over its channels: an hour and a half at 24 kHz. More is not a clip, or a header that lies."""
MAX_CHUNKS = 100
PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE
SUBTYPES = {(PCM, 16): "PCM_16", (PCM, 24): "PCM_24", (PCM, 32): "PCM_32", (FLOAT, 32): "FLOAT"}
_GUID_TAIL = bytes.fromhex("000000001000800000aa00389b71")


class ClipError(Exception):
    """A clip that cannot be used; the message says why, without its path."""


@dataclass(frozen=True)
class Header:
    """The header of a sound file."""

    rate: int
    """Samples a second of one channel."""
    channels: int
    frames: int
    subtype: str
    """PCM_16, PCM_24, PCM_32 or FLOAT; of FLAC the bits, as PCM_<bits>."""
    start: int = 0
    """The first byte of the samples of a WAV file."""
    md5: bytes = b""
    """MD5 of the decoded samples of a FLAC file; empty where the file states none."""

    def check(self) -> Header:
        """This header; raises ClipError for counts that no clip has."""
        if not 1 <= self.channels <= MAX_CHANNELS:
            raise ClipError(f"has {self.channels} channels, expected 1 to {MAX_CHANNELS}")
        if not MIN_RATE <= self.rate <= MAX_RATE:
            raise ClipError(f"has {self.rate} samples a second, expected {MIN_RATE} to {MAX_RATE}")
        if self.frames == 0:
            raise ClipError("holds no samples")
        if self.frames * self.channels > MAX_SAMPLES:
            raise ClipError(f"has {self.frames} x {self.channels} samples, expected at most {MAX_SAMPLES}; cut it up")
        return self


def read_wav_header(file: BinaryIO, size: int) -> Header:
    """The header of a WAV file of `size` bytes; raises ClipError where it is not one that can be trusted."""
    riff, declared, wave = _unpack("<4sI4s", file.read(12), "the RIFF header")
    if (riff, wave) != (b"RIFF", b"WAVE"):
        raise ClipError("is not a RIFF/WAVE file")
    if size not in (declared + 8, declared + 8 + declared % 2):  # a pad byte may stand uncounted at the end
        raise ClipError(f"declares {declared + 8} bytes and has {size}")
    form: tuple[int, int, int, int] | None = None
    for _ in range(MAX_CHUNKS):
        name, length = _unpack("<4sI", file.read(8), "a chunk header")
        position = file.tell()
        if position + length > size:
            raise ClipError(f"its chunk {name!r} declares {length} bytes, {size - position} are there")
        if name == b"data":
            if form is None:
                raise ClipError("has no format before its samples")
            tag, channels, rate, bits = form
            frame = channels * bits // 8
            if length % frame:
                raise ClipError(f"its {length} bytes of samples are not whole frames of {frame}")
            return Header(rate, channels, length // frame, SUBTYPES[tag, bits], position).check()
        if name == b"fmt ":
            form = _wav_format(file.read(min(length, 40)))
        file.seek(position + length + length % 2)
    raise ClipError(f"has no samples in its first {MAX_CHUNKS} chunks")


def _wav_format(raw: bytes) -> tuple[int, int, int, int]:
    """(format tag, channels, rate, bits) of a fmt chunk."""
    tag, channels, rate, _, align, bits = _unpack("<HHIIHH", raw[:16], "the format chunk")
    if tag == EXTENSIBLE:
        extension, valid, _, tag, tail = _unpack("<HHIH14s", raw[16:40], "the extended format chunk")
        if extension != 22 or valid != bits or tail != _GUID_TAIL:
            raise ClipError("has an extended format that is not plain PCM or float")
    if (tag, bits) not in SUBTYPES:
        raise ClipError(f"is of format {tag} with {bits} bits; expected PCM of 16, 24 or 32 bits or 32-bit float")
    if not 1 <= channels <= MAX_CHANNELS:
        raise ClipError(f"has {channels} channels, expected 1 to {MAX_CHANNELS}")
    if align != channels * bits // 8:
        raise ClipError(f"declares frames of {align} bytes, expected {channels * bits // 8}")
    return tag, channels, rate, bits


def read_flac_header(file: BinaryIO) -> Header:
    """The STREAMINFO of a FLAC file; raises ClipError where it is not one that can be trusted."""
    magic, block, length = _unpack(">4sB3s", file.read(8), "the FLAC header")
    if magic != b"fLaC" or block & 0x7F != 0 or int.from_bytes(length) != 34:
        raise ClipError("is not a FLAC file")
    packed, md5 = _unpack(">10x8s16s", file.read(34), "STREAMINFO")
    bits = int.from_bytes(packed)
    rate, channels = bits >> 44, ((bits >> 41) & 0x7) + 1
    depth, frames = ((bits >> 36) & 0x1F) + 1, bits & (2**36 - 1)
    if depth not in (16, 24):
        raise ClipError(f"has {depth} bits a sample, expected 16 or 24")
    return Header(rate, channels, frames, f"PCM_{depth}", md5=b"" if md5 == bytes(16) else md5).check()


def _unpack(layout: str, raw: bytes, what: str) -> tuple[Any, ...]:
    if len(raw) < struct.calcsize(layout):
        raise ClipError(f"ends inside {what}")
    return struct.unpack(layout, raw)
