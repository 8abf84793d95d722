"""Corpora of clips as memory-mapped code files, prepared once.

A prepared corpus is a folder of the cache, named by a hash of its clips and of how they become codes:

    train.bin, validation.bin, test.bin   the codes of a split, clip after clip
    manifest.json                         rate, gain, quantiser, sources, what was skipped and why, counts, SHA-256

The clips are hashed at every start, so a changed file is another corpus, never a stale one. They stand in the order of
their hashes, which is that of no speaker and no word: lanes that read them by name would see one word for long, and the
first samples of a held-out split would stand for one speaker.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from audio import waveform
from audio.clip_header import ClipError
from audio.config import DataConfig
from audio.datasets import download
from audio.layouts import SPLITS, Source, find_sources
from audio.quantiser import QUANTISERS, Quantiser
from audio.waveform import Samples
from lm.corpus import Split
from lm.prepared import MANIFEST, atomic_folder, cache_root, file_sha256, open_numbers, open_or_make, read_manifest
from training.errors import InputError

FORMAT = 1
PIECE = 2**22
"""Samples encoded at a time."""
MAX_LISTED = 10
"""Skipped clips that a message names."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class AudioCorpus:
    """A prepared corpus."""

    splits: dict[str, Split]
    """A document is a clip, a token a code."""
    quantiser: Quantiser
    rate: int
    """Samples a second."""
    gain: float
    """The factor on every sample."""
    sha256: str
    """SHA-256 of everything that a model learns from: codes and borders of clips."""

    def description(self) -> dict[str, Any]:
        """JSON data that says what a code of a model trained on this means."""
        return {"name": self.quantiser.name, "rate": self.rate, "gain": self.gain}


def prepare(config: DataConfig, gain: float | None = None) -> AudioCorpus:
    """The corpus of a configuration, from the cache or made now; with `gain`, under that one.

    Clips that cannot be used are skipped and logged with their reason, or an InputError if `data.strict`. Raises
    InputError where train or validation has no clip that can be used.
    """
    if config.download and not Path(config.path).exists():
        download(config)
    try:
        clips = sorted(((_digest(source), source) for source in find_sources(config)), key=lambda clip: clip[0])
        digests, sources = [digest for digest, _ in clips], [source for _, source in clips]
        folder = _place(config, sources, digests, gain)
        manifest = open_or_make(folder, _open, lambda place: _make(place, config, sources, digests, gain))
    except OSError as error:
        raise InputError(f"{error.filename or config.path}: {error.strerror or error}") from error
    _report_skipped(manifest["skipped"], len(sources), config.strict)
    _warn_of_shared_clips(sources, digests)
    splits = {name: _split(folder, name, entry) for name, entry in manifest["splits"].items()}
    identity = [manifest["splits"], manifest["rate"], manifest["gain"], manifest["quantiser"]]
    sha256 = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
    return AudioCorpus(splits, QUANTISERS[manifest["quantiser"]], manifest["rate"], manifest["gain"], sha256)


def _digest(source: Source) -> str:
    """The SHA-256 of a clip's bytes, or why it has none."""
    try:
        return source.problem or waveform.sha256(source.path)
    except ClipError as error:
        return str(error)


def _place(config: DataConfig, sources: Sequence[Source], digests: Sequence[str], gain: float | None) -> Path:
    identity = {
        "format": FORMAT,
        "clips": [[source.split, digest] for source, digest in zip(sources, digests, strict=True)],
        "formats": config.formats,
        "rate": config.sample_rate,
        "resampler": waveform.RESAMPLER if config.resample else None,
        "trim_db": config.trim_db,
        "quantiser": config.quantiser,
        "gain": gain or config.gain,
    }
    digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
    return cache_root(config.cache) / f"audio-{digest[:32]}"


def _open(folder: Path) -> dict[str, Any]:
    """The manifest of a folder; raises as `open_or_make` expects."""
    manifest = read_manifest(folder)
    for name, entry in manifest["splits"].items():
        _split(folder, name, entry)
    _ = manifest["rate"], manifest["gain"], manifest["skipped"], QUANTISERS[manifest["quantiser"]]
    return manifest


def _split(folder: Path, name: str, entry: Mapping[str, Any]) -> Split:
    codes = open_numbers(folder / f"{name}.bin", entry["dtype"], entry["sha256"])
    starts = np.array(entry["starts"], dtype=np.int64)
    return Split(name, codes, starts, num_bytes=codes.nbytes, num_words=0, sha256=entry["sha256"])


def _make(
    folder: Path, config: DataConfig, sources: Sequence[Source], digests: Sequence[str], gain: float | None
) -> None:
    """Prepare a corpus: read every clip once into a file of floats, then, the gain known, quantise that."""
    with atomic_folder(folder) as temporary:
        read = [
            _Recording(temporary, split).write(config, [s for s in sources if s.split == split])
            for split in SPLITS
            if any(source.split == split for source in sources)
        ]
        skipped = [entry for split in read for entry in split.skipped]
        for split in read[:2]:
            if not split.lengths:
                _refuse_all_bad(config, split)
        if config.strict and skipped:
            raise InputError(_listing(skipped, len(sources)))
        chosen = gain or (_peak_gain(config, read[0].peak) if config.gain == "peak" else float(config.gain))
        quantiser = QUANTISERS[config.quantiser]
        for source, digest in zip(sources, digests, strict=True):
            if _digest(source) != digest:
                raise InputError(f"{source.path}: changed while it was read")
        manifest = {
            "format": FORMAT,
            "rate": config.sample_rate,
            "gain": chosen,
            "quantiser": quantiser.name,
            "resampler": waveform.RESAMPLER if config.resample else None,
            "trim_db": config.trim_db,
            "sources": [
                {"split": source.split, "path": str(source.path.absolute()), "sha256": digest}
                for source, digest in zip(sources, digests, strict=True)
            ],
            "skipped": skipped,
            "splits": {split.name: split.quantise(quantiser, chosen) for split in read},
        }
        (temporary / MANIFEST).write_text(json.dumps(manifest))


class _Recording:
    """The clips of one split on their way to codes."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self.floats, self.codes = folder / f"{name}.float32", folder / f"{name}.bin"
        self.lengths: list[int] = []
        self.peak = 0.0
        self.skipped: list[dict[str, str]] = []

    def write(self, config: DataConfig, sources: Sequence[Source]) -> _Recording:
        """Read the clips, one after the other, into a file of floats."""
        with self.floats.open("wb") as file:
            for source in sources:
                try:
                    samples = _samples(source, config)
                except ClipError as error:
                    self.skipped.append({"path": str(source.path.absolute()), "reason": str(error)})
                    continue
                file.write(samples.tobytes())
                self.lengths.append(len(samples))
                self.peak = max(self.peak, float(np.abs(samples).max()))
        return self

    def quantise(self, quantiser: Quantiser, gain: float) -> dict[str, Any]:
        """Turn the floats into codes; returns what the manifest says of them."""
        clipped = count = 0
        with self.floats.open("rb") as floats, self.codes.open("wb") as codes:
            while raw := floats.read(PIECE * 4):
                samples = np.frombuffer(raw, np.float32) * np.float32(gain)
                clipped += int((np.abs(samples) > 1 + 1e-6).sum())
                count += len(samples)
                codes.write(quantiser.encode(samples).astype(quantiser.dtype).tobytes())
        self.floats.unlink()
        if clipped:
            logger.warning(
                "%s: %d of %d samples are beyond full scale under the gain %g", self.name, clipped, count, gain
            )
        return {
            "samples": count,
            "clipped": clipped,
            "dtype": quantiser.dtype.str,
            "sha256": file_sha256(self.codes),
            "starts": np.cumsum([0, *self.lengths[:-1]]).tolist(),
        }


def _samples(source: Source, config: DataConfig) -> Samples:
    """The samples (N,) of one clip, at the rate of the configuration."""
    if source.problem:
        raise ClipError(source.problem)
    clip = waveform.read(source.path, config.formats)
    samples = clip.samples
    if clip.rate != config.sample_rate:
        if not config.resample:
            raise ClipError(
                f"has {clip.rate} samples a second, expected data.sample_rate = {config.sample_rate}; "
                "data.resample=true converts it"
            )
        samples = waveform.resample(samples, clip.rate, config.sample_rate)
    if config.trim_db is not None:
        samples = waveform.trim(samples, config.trim_db)
    if not len(samples):
        raise ClipError("has no sample left at this rate")
    return samples


def _peak_gain(config: DataConfig, peak: float) -> float:
    if peak == 0:
        raise InputError(f"{config.path}: every clip of train is silent; data.gain=1 takes them as they are")
    return 1 / peak


def _refuse_all_bad(config: DataConfig, split: _Recording) -> None:
    raise InputError(f"{config.path}: no clip of {split.name} can be used\n{_listing(split.skipped)}")


def _report_skipped(skipped: Sequence[Mapping[str, str]], total: int, strict: bool) -> None:
    if skipped and strict:
        raise InputError(_listing(skipped, total))
    if skipped:
        logger.warning("%s", _listing(skipped, total))


def _warn_of_shared_clips(sources: Sequence[Source], digests: Sequence[str]) -> None:
    """A clip that is trained on and held out makes every figure too good."""
    trained = {digest for source, digest in zip(sources, digests, strict=True) if source.split == "train"}
    shared = [s for s, digest in zip(sources, digests, strict=True) if s.split != "train" and digest in trained]
    usable = [source for source in shared if source.path.is_file()]
    if usable:
        logger.warning("%d held-out clips are in train too, %s the first", len(usable), usable[0].path)


def _listing(skipped: Sequence[Mapping[str, str]], total: int | None = None) -> str:
    """The number of skipped clips, their reasons, and the first of them."""
    kinds = Counter(entry["reason"] for entry in skipped).most_common(MAX_LISTED)
    lines = [f"{len(skipped)}{f' of {total}' if total else ''} clips cannot be used"]
    lines += [f"{count} x {reason}" for reason, count in kinds if count > 1]
    lines += [f"{entry['path']}: {entry['reason']}" for entry in skipped[:MAX_LISTED]]
    if len(skipped) > MAX_LISTED:
        lines.append("... the manifest of the prepared corpus lists them all")
    return "\n".join(lines)
