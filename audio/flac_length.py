"""The length of a FLAC file whose header states none, from its last frame (RFC 9639, section 9)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from audio.clip_header import ClipError

MAX_HEADERS = 4
"""Frames from the end that are checked: bytes inside of the last one may look like a header by chance."""
MAX_FRAME_BYTES = 2**21
"""More than 65,535 samples of eight channels of 24 bits take."""


def count_samples(raw: bytes) -> int:
    """The samples of one channel in the bytes of a FLAC file.

    Raises ClipError where the file does not end with a whole frame, by the checksum of that.
    """
    block_size = int.from_bytes(raw[8:10])  # the first field of STREAMINFO
    tail = raw[-MAX_FRAME_BYTES:]
    checksum = int.from_bytes(tail[-2:])
    found = ((start, _samples_to_the_end(tail[start : start + 16], block_size)) for start in _sync_codes(tail))
    headers = ((start, samples) for start, samples in found if samples is not None)
    for start, samples in itertools.islice(headers, MAX_HEADERS):
        if _remainder(tail[start:-2], 16, 0x8005) == checksum:
            return samples
    raise ClipError("states no length, and its last frame is not whole")


def _sync_codes(raw: bytes) -> Iterator[int]:
    """Where frames may begin, the last first."""
    place = len(raw)
    while (place := raw.rfind(b"\xff", 0, place)) >= 0:
        if raw[place + 1 : place + 2] in (b"\xf8", b"\xf9"):
            yield place


def _samples_to_the_end(header: bytes, block_size: int) -> int | None:
    """The samples before a frame and in it; None for bytes that are no header of a frame (section 9.1)."""
    if len(header) < 6:
        return None
    is_fixed, size_code, rate_code, first = header[1] == 0xF8, header[2] >> 4, header[2] & 0xF, header[4]
    length = 1 if first < 0x80 else 8 - (first ^ 0xFF).bit_length()  # of a number as UTF-8 writes it
    number = first if length == 1 else first & (0x7F >> length)
    for byte in header[5 : 4 + length]:
        number = number << 6 | byte & 0x3F
    place, width = 4 + length, {6: 1, 7: 2}.get(size_code, 0)
    stated = int.from_bytes(header[place : place + width]) + 1
    sizes = [0, 192, 576, 1152, 2304, 4608, stated, stated, *(256 << power for power in range(8))]
    place += width + {12: 1, 13: 2, 14: 2}.get(rate_code, 0)
    if place >= len(header) or _remainder(header[:place], 8, 0x07) != header[place]:
        return None
    return (number * block_size if is_fixed else number) + sizes[size_code]


def _remainder(raw: bytes, bits: int, polynomial: int) -> int:
    """The cyclic redundancy check of bytes."""
    mask, table = (1 << bits) - 1, []
    for byte in range(256):
        remainder = byte << (bits - 8)
        for _ in range(8):
            remainder = (remainder << 1 ^ (polynomial if remainder >> (bits - 1) else 0)) & mask
        table.append(remainder)
    remainder = 0
    for byte in raw:
        remainder = (remainder << 8 & mask) ^ table[remainder >> (bits - 8) ^ byte]
    return remainder
