"""The header of a sound file, read here before any decoder sees a byte.

libsndfile takes sizes, rates and channel counts on trust and reads a file cut short as a shorter clip without a word.
So a clip is described by its own header first, and is refused unless the header is whole, plausible and agrees with
the size of the file. WAV: RIFF chunks (IBM and Microsoft, Multimedia Programming Interface 1.0, 1991) with PCM of 8,
16, 24 or 32 bits or float of 32 or 64, plain or extensible. FLAC: STREAMINFO (RFC 9639, section 8.2).

A program that writes to a pipe cannot go back to state the length: it leaves 0 or 2^32 - 1 in a WAV file and 0 in a
FLAC file. Such a clip ends where its file does, which nothing in it can confirm.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, BinaryIO

MAX_CHANNELS = 8
MIN_RATE, MAX_RATE = 1_000, 768_000
"""Samples a second."""
MAX_SAMPLES = 2**27
"""Of one clip over its channels: an hour and a half at 24 kHz. More is not a clip, but may be cut into clips."""
MAX_CHUNKS = 100
PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE
SUBTYPES = {
    (PCM, 8): "PCM_U8",
    (PCM, 16): "PCM_16",
    (PCM, 24): "PCM_24",
    (PCM, 32): "PCM_32",
    (FLOAT, 32): "FLOAT",
    (FLOAT, 64): "DOUBLE",
}
UNSTATED = (0, 2**32 - 1)
"""Sizes in a WAV file that was written to a pipe."""
_GUID_TAIL = bytes.fromhex("000000001000800000aa00389b71")
_MAGIC = {
    b"ID3": "MP3",
    b"\xff\xfb": "MP3",
    b"\xff\xf3": "MP3",
    b"\xff\xf2": "MP3",
    b"OggS": "Ogg",
    b"fLaC": "FLAC",
    b"FORM": "AIFF",
    b"RF64": "RF64",
    b"\x1aE\xdf\xa3": "Matroska or WebM",
}
"""Names of formats by the bytes that their files begin with."""


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
    """As libsndfile names it; of FLAC the bits, as PCM_<bits>."""
    start: int = 0
    """The first byte of the samples of a WAV file."""
    width: int = 0
    """Bytes of a sample of one channel of a WAV file."""
    is_stated: bool = True
    """Whether the file states its length; `frames` is 0 of a FLAC file that does not."""
    md5: bytes = b""
    """MD5 of the decoded samples of a FLAC file; empty where the file states none."""

    def check(self) -> Header:
        """This header; raises ClipError for counts that no clip has."""
        if not 1 <= self.channels <= MAX_CHANNELS:
            raise ClipError(f"has {self.channels} channels, expected 1 to {MAX_CHANNELS}")
        if not MIN_RATE <= self.rate <= MAX_RATE:
            raise ClipError(f"has {self.rate} samples a second, expected {MIN_RATE} to {MAX_RATE}")
        if self.frames == 0 and self.is_stated:
            raise ClipError("holds no samples")
        return self


def read_wav_header(file: BinaryIO, size: int) -> Header:
    """The header of a WAV file of `size` bytes; raises ClipError where it is not one that can be trusted."""
    start = file.read(12)
    riff, declared, wave = _unpack("<4sI4s", start, "the RIFF header")
    if (riff, wave) != (b"RIFF", b"WAVE"):
        raise ClipError(f"is not a RIFF/WAVE file{_kind(start)}")
    # A pad byte may stand uncounted at the end.
    if declared not in UNSTATED and size not in (declared + 8, declared + 8 + declared % 2):
        raise ClipError(f"declares {declared + 8} bytes and has {size}")
    form: tuple[int, int, int, int] | None = None
    header: Header | None = None
    for _ in range(MAX_CHUNKS):
        if header is not None and size - file.tell() < 8:
            return header
        name, length = _unpack("<4sI", file.read(8), "a chunk header")
        position = file.tell()
        is_stated = name != b"data" or declared not in UNSTATED or length not in UNSTATED
        if not is_stated:
            length = size - position
        if position + length > size:
            if header is not None:
                return header
            raise ClipError(f"its chunk {name!r} declares {length} bytes, {size - position} are there")
        if name == b"data" and header is not None:
            raise ClipError("has two chunks of samples, expected one; which of them is the sound, it does not say")
        if name == b"data":
            if form is None:
                raise ClipError("has no format before its samples")
            tag, channels, rate, bits = form
            frame = channels * bits // 8
            if length % frame:
                raise ClipError(f"its {length} bytes of samples are not whole frames of {frame}")
            if not length:
                raise ClipError("holds no samples")
            header = Header(
                rate, channels, length // frame, SUBTYPES[tag, bits], position, bits // 8, is_stated
            ).check()
        if name == b"fmt " and header is None:
            form = _wav_format(file.read(min(length, 40)))
        file.seek(position + length + length % 2)
    if header is None:
        raise ClipError(f"has no samples in its first {MAX_CHUNKS} chunks")
    return header


def _kind(start: bytes) -> str:
    """What the first bytes of a file say that it is, and what would make a WAV file of it; nothing if they do not."""
    kinds = [kind for magic, kind in _MAGIC.items() if start.startswith(magic)]
    kinds += ["MP4"] if start[4:8] == b"ftyp" else []
    return f" but {kinds[0]}; ffmpeg -i IN OUT.wav converts it" if kinds else ""


def _wav_format(raw: bytes) -> tuple[int, int, int, int]:
    """(format tag, channels, rate, bits) of a fmt chunk."""
    tag, channels, rate, _, align, bits = _unpack("<HHIIHH", raw[:16], "the format chunk")
    if tag == EXTENSIBLE:
        extension, valid, _, tag, tail = _unpack("<HHIH14s", raw[16:40], "the extended format chunk")
        # Fewer valid bits stand in the upper ones, so that the sample is the same number.
        is_whole = valid == bits or (tag == PCM and 0 < valid < bits)
        if extension != 22 or not is_whole or tail != _GUID_TAIL:
            raise ClipError("has an extended format that is not plain PCM or float")
    if (tag, bits) not in SUBTYPES:
        raise ClipError(
            f"is of format {tag} with {bits} bits; expected PCM of 8, 16, 24 or 32 bits or float of 32 or 64"
        )
    if not 1 <= channels <= MAX_CHANNELS:
        raise ClipError(f"has {channels} channels, expected 1 to {MAX_CHANNELS}")
    if align != channels * bits // 8:
        raise ClipError(f"declares frames of {align} bytes, expected {channels * bits // 8}")
    return tag, channels, rate, bits


def read_flac_header(file: BinaryIO) -> Header:
    """The STREAMINFO of a FLAC file; raises ClipError where it is not one that can be trusted."""
    start = file.read(8)
    magic, block, length = _unpack(">4sB3s", start, "the FLAC header")
    if magic != b"fLaC":
        raise ClipError(f"is not a FLAC file{_kind(start)}")
    if block & 0x7F != 0 or int.from_bytes(length) != 34:
        raise ClipError("is not a FLAC file: it does not begin with STREAMINFO")
    packed, md5 = _unpack(">10x8s16s", file.read(34), "STREAMINFO")
    bits = int.from_bytes(packed)
    rate, channels = bits >> 44, ((bits >> 41) & 0x7) + 1
    depth, frames = ((bits >> 36) & 0x1F) + 1, bits & (2**36 - 1)
    if depth not in (8, 16, 24):
        raise ClipError(f"has {depth} bits a sample, expected 8, 16 or 24")
    stated = b"" if md5 == bytes(16) else md5
    return Header(rate, channels, frames, f"PCM_{depth}", is_stated=frames > 0, md5=stated).check()


def write_flac_length(raw: bytes, frames: int) -> bytes:
    """The bytes of a FLAC file that states no length, with its length."""
    fields = int.from_bytes(raw[18:26]) | frames  # the last 36 bits of them are the length
    return raw[:18] + fields.to_bytes(8) + raw[26:]


def _unpack(layout: str, raw: bytes, what: str) -> tuple[Any, ...]:
    if len(raw) < struct.calcsize(layout):
        raise ClipError(f"ends inside {what}")
    return struct.unpack(layout, raw)
