"""Clips on their way to codes: all read once into a file of floats, and, once their gain is known, quantised."""

from __future__ import annotations

import errno
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from audio.clip_header import ClipError
from audio.clips import convert, read_clips
from audio.config import DataConfig
from audio.layouts import Source
from audio.quantiser import Quantiser
from audio.waveform import Samples
from lm.mapped import file_sha256
from training.files import create_file
from training.progress import track

PIECE = 2**22
"""Samples encoded at a time."""
RESERVE = 2**26
"""Bytes of the cache's disk that are left to others."""
HOT = 3.0
"""A clip is hot that is as many times louder than nine tenths of the clips."""
MAX_NAMED = 3
"""Hot clips that a message names."""

logger = logging.getLogger(__name__)


class Recording(NamedTuple):
    """One clip in the file of floats."""

    source: Source
    start: int
    length: int
    peak: float
    """The largest absolute sample."""


class Recordings:
    """The clips of all sources that can be used, in the order of the sources, and why others cannot be."""

    def __init__(self, folder: Path, config: DataConfig, sources: Sequence[Source]) -> None:
        """Reads every source into a file in a folder; raises OSError where its disk cannot hold them."""
        self.path = folder / "clips.float32"
        self.clips: list[Recording] = []
        self.skipped: list[dict[str, str]] = []
        self.unstated: list[Source] = []
        """Sources that do not state their length."""
        with create_file(self.path) as file:
            for source in track(sources, what="reading the clips", unit="clips"):
                before, is_stated = len(self.clips), True
                place = file.tell()
                try:
                    for clip in read_clips(source, config):
                        self._write(file, source, convert(clip, config))
                        is_stated = clip.is_stated
                except ClipError as error:
                    # A checksum covers the whole, which may have been written in parts.
                    del self.clips[before:]
                    file.seek(place)
                    file.truncate()
                    self.skipped.append({"path": str(source.path.absolute()), "reason": str(error)})
                    continue
                if not is_stated:
                    self.unstated.append(source)

    def _write(self, file: BinaryIO, source: Source, samples: Samples) -> None:
        _require_space(self.path.parent, source.path, samples.nbytes)
        self.clips.append(Recording(source, file.tell() // 4, len(samples), float(np.abs(samples).max())))
        file.write(np.ascontiguousarray(samples).data)

    def quantise(self, path: Path, clips: Sequence[Recording], quantiser: Quantiser, gain: float) -> dict[str, Any]:
        """Write the codes of some of the clips to a file; returns what the manifest says of them."""
        clipped = count = 0
        starts = []
        with self.path.open("rb") as floats, create_file(path) as codes:
            for clip in track(clips, what=f"preparing the {path.stem} split", unit="clips"):
                starts.append(count)
                floats.seek(clip.start * 4)
                for samples in _pieces(floats.read, clip.length):
                    scaled = samples * np.float32(gain)
                    clipped += int((np.abs(scaled) > 1 + 1e-6).sum())
                    codes.write(quantiser.encode(scaled).astype(quantiser.dtype).tobytes())
                count += clip.length
        return {
            "samples": count,
            "clipped": clipped,
            "dtype": quantiser.dtype.str,
            "sha256": file_sha256(path),
            "starts": starts,
        }


def _pieces(read: Any, length: int) -> Iterator[Samples]:
    for start in range(0, length, PIECE):
        yield np.frombuffer(read(min(PIECE, length - start) * 4), np.float32)


def _require_space(folder: Path, clip: Path, size: int) -> None:
    """Raise OSError unless the disk of a folder has room for a clip of `size` bytes, and RESERVE more."""
    free = shutil.disk_usage(folder).free
    if free < size + RESERVE:
        needed, there, kept = (f"{count / 2**20:,.1f} MiB" for count in (size, free, RESERVE))
        reason = f"{clip} needs {needed}, {there} are free, of which {kept} are left to others"
        raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: {reason}")


def describe_hot_clips(clips: Sequence[Recording]) -> str:
    """Which clips alone set the gain of all, as they are far louder than the others; empty where none are."""
    peaks = np.array([clip.peak for clip in clips])
    usual = float(np.quantile(peaks, 0.9, method="lower"))
    hot = sorted((clip for clip in clips if clip.peak > HOT * usual > 0), key=lambda clip: -clip.peak)
    if not hot:
        return ""
    named = ", ".join(f"{clip.source.path} (peak {clip.peak:.3g})" for clip in hot[:MAX_NAMED])
    loudest = max(clip.peak for clip in clips if clip not in hot)
    return (
        f"data.gain=peak is {1 / hot[0].peak:.3g} because of {len(hot)} of {len(clips)} clips, {named}"
        f"{' ...' if len(hot) > MAX_NAMED else ''}; nine tenths stay under {usual:.3g}, the loudest other reaches "
        f"{loudest:.3g}; data.gain={1 / loudest:.3g} would fit all others and clip these"
    )
