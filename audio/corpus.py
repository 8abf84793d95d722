"""Corpora of clips as memory-mapped code files, prepared once.

A prepared corpus is a folder of the cache, named by a hash of its clips and of how they become codes:

    train.bin, validation.bin, test.bin   the codes of a split, clip after clip
    manifest.json                         rate, gain, quantiser, sources, what was skipped and why, counts, SHA-256

Where the layout names no held-out clips, splits are dealt over those that can be used.

The clips are hashed at every start, so a changed file is another corpus, never a stale one. They stand in the order of
their hashes, which is that of no speaker and no word: lanes that read them by name would see one word for long, and the
first samples of a held-out split would stand for one speaker.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from audio import waveform
from audio.clip_header import ClipError
from audio.config import DataConfig
from audio.layouts import SPLITS, Source, find_sources
from audio.quantiser import QUANTISERS, Quantiser
from audio.recordings import Recording, Recordings, describe_hot_clips
from audio.splits import assign_splits
from lm.corpus import Split
from lm.mapped import open_numbers
from lm.prepared import MANIFEST, atomic_folder, cache_root, open_or_make, read_manifest
from training.errors import InputError
from training.files import write_file
from training.progress import track

FORMAT = 2
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
    InputError where train or validation has no clip that can be used, UserError where the cache cannot be written.
    """
    try:
        sources = find_sources(config)
        digests = [_digest(source) for source in track(sources, what="checking the clips", unit="clips")]
        folder = _place(config, sources, digests, gain)
        corpus, manifest = open_or_make(
            folder, lambda place: _open(place, config), lambda place: _make(place, config, sources, digests, gain)
        )
    except OSError as error:
        raise InputError(f"{error.filename or config.path}: {error.strerror or error}") from error
    _report_skipped(manifest["skipped"], len(sources), config.strict)
    for warning in manifest["warnings"]:
        logger.warning("%s", warning)
    return corpus


def _digest(source: Source) -> str:
    """The SHA-256 of a clip's bytes, or why it has none."""
    try:
        return source.problem or waveform.sha256(source.path)
    except ClipError as error:
        return str(error)


def _place(config: DataConfig, sources: Sequence[Source], digests: Sequence[str], gain: float | None) -> Path:
    by_speaker = config.split_by == "speaker"
    # What is dealt is dealt in the order of names, which are not among what else decides.
    clips = [
        [digest, source.split, None if source.split else rank, source.speaker if by_speaker else None]
        for rank, (source, digest) in enumerate(zip(sources, digests, strict=True))
    ]
    identity = {
        "format": FORMAT,
        "clips": sorted(clips, key=lambda clip: str(clip)),
        "split": asdict(config.split) if any(source.split is None for source in sources) else None,
        "split_by": config.split_by,
        "clip_seconds": config.clip_seconds,
        "formats": config.formats,
        "rate": config.sample_rate,
        "resampler": waveform.RESAMPLER if config.resample else None,
        "trim_db": config.trim_db,
        "quantiser": config.quantiser,
        "gain": gain or config.gain,
    }
    digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
    return cache_root(config.cache) / f"audio-{digest[:32]}"


def _open(folder: Path, config: DataConfig) -> tuple[AudioCorpus, dict[str, Any]]:
    """The corpus in a folder and its manifest; raises as `open_or_make` expects."""
    manifest = read_manifest(folder)
    if (manifest["rate"], manifest["quantiser"]) != (config.sample_rate, config.quantiser):
        raise ValueError("its manifest names another rate or quantiser")
    quantiser, rate, gain = QUANTISERS[config.quantiser], config.sample_rate, float(manifest["gain"])
    if not 0 < gain < math.inf:
        raise ValueError(f"its manifest has the gain {gain}")
    _ = [(entry["path"], entry["reason"]) for entry in manifest["skipped"]], list(manifest["warnings"])
    splits = {}
    for name, entry in manifest["splits"].items():
        codes, starts = open_numbers(folder, name, entry, quantiser.levels)
        splits[name] = Split(name, codes, starts, num_bytes=codes.nbytes, num_words=0, sha256=entry["sha256"])
    identity = [manifest["splits"], manifest["rate"], manifest["gain"], manifest["quantiser"]]
    sha256 = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
    return AudioCorpus(splits, quantiser, rate, gain, sha256), manifest


def _make(
    folder: Path, config: DataConfig, sources: Sequence[Source], digests: Sequence[str], gain: float | None
) -> None:
    """Prepare a corpus: read every clip once into a file of floats, deal splits, then, the gain known, quantise."""
    with atomic_folder(folder) as temporary:
        read = Recordings(temporary, config, sources)
        if config.strict and read.skipped:
            raise InputError(_listing(read.skipped, len(sources)))
        _require_clips(config, sources, read)
        digest_of = dict(zip(sources, digests, strict=True))
        in_order = sorted(
            zip(assign_splits(config, [clip.source for clip in read.clips]), read.clips, strict=True),
            key=lambda pair: digest_of[pair[1].source],
        )
        splits = {name: [clip for split, clip in in_order if split == name] for name in SPLITS}
        for source in track(sources, what="checking the clips again", unit="clips"):
            if _digest(source) != digest_of[source]:
                raise InputError(f"{source.path}: changed while it was read")
        chosen, warnings = _gain(config, splits["train"], gain)
        quantiser = QUANTISERS[config.quantiser]
        entries = {
            name: read.quantise(temporary / f"{name}.bin", clips, quantiser, chosen)
            for name, clips in splits.items()
            if clips
        }
        read.path.unlink()
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
            "skipped": read.skipped,
            "warnings": [
                *warnings,
                *_warn_of_splits(config, splits, digest_of),
                *_warn_of_lengths(read.unstated),
                *(
                    f"{name}: {entry['clipped']} of {entry['samples']} samples are beyond full scale under the gain "
                    f"{chosen:g}"
                    for name, entry in entries.items()
                    if entry["clipped"]
                ),
            ],
            "splits": entries,
        }
        write_file(temporary / MANIFEST, json.dumps(manifest).encode())


def _require_clips(config: DataConfig, sources: Sequence[Source], read: Recordings) -> None:
    """Raise InputError where train or validation has no clip that can be used."""
    of = {source.path.absolute(): source.split for source in sources}
    usable = {clip.source.split for clip in read.clips}
    if None in of.values():
        if None not in usable:
            raise InputError(f"{config.path}: no clip can be used\n{_listing(read.skipped)}")
        return
    for split in SPLITS[:2]:
        if split not in usable:
            skipped = [entry for entry in read.skipped if of.get(Path(entry["path"]), split) == split]
            raise InputError(f"{config.path}: no clip of {split} can be used\n{_listing(skipped)}")


def _gain(config: DataConfig, train: Sequence[Recording], gain: float | None) -> tuple[float, list[str]]:
    """The gain of a corpus, and what is to be said of it."""
    if gain is not None or config.gain != "peak":
        return float(gain or config.gain), []
    peak = max(clip.peak for clip in train)
    if peak < 1e-30:
        raise InputError(f"{config.path}: every clip of train is silent; data.gain=1 takes them as they are")
    hot = describe_hot_clips(train)
    return 1 / peak, [hot] if hot else []


def _report_skipped(skipped: Sequence[Mapping[str, str]], total: int, strict: bool) -> None:
    if skipped and strict:
        raise InputError(_listing(skipped, total))
    if skipped:
        logger.warning("%s", _listing(skipped, total))


def _warn_of_splits(
    config: DataConfig, splits: Mapping[str, Sequence[Recording]], digests: Mapping[Source, str]
) -> Iterable[str]:
    """A clip that is trained on and held out makes every figure too good; a test split may be missing."""
    if any(source.split == "test" for source in digests) and not splits["test"]:
        yield f"{config.path}: no clip of test can be used, so there is no test split"
    trained = {digests[clip.source]: clip.source.path for clip in splits["train"]}
    held_out = dict.fromkeys(clip.source for name in SPLITS[1:] for clip in splits[name])
    # Parts of one recording in two splits share no sample.
    shared = [source for source in held_out if trained.get(digests[source], source.path) != source.path]
    if shared:
        yield f"{len(shared)} held-out clips are in train too, {shared[0].path} the first"


def _warn_of_lengths(unstated: Sequence[Source]) -> Iterable[str]:
    if unstated:
        yield (
            f"{len(unstated)} clips do not state their length, as those written to a pipe, and were read to the end of "
            f"their files, {unstated[0].path} the first; nothing tells whether they are whole"
        )


def _listing(skipped: Sequence[Mapping[str, str]], total: int | None = None) -> str:
    """The number of skipped clips, their reasons, and the first of them."""
    kinds = Counter(entry["reason"] for entry in skipped).most_common(MAX_LISTED)
    lines = [f"{len(skipped)}{f' of {total}' if total else ''} clips cannot be used"]
    lines += [f"{count} x {reason}" for reason, count in kinds if count > 1]
    lines += [f"{entry['path']}: {entry['reason']}" for entry in skipped[:MAX_LISTED]]
    if len(skipped) > MAX_LISTED:
        lines.append("... the manifest of the prepared corpus lists them all")
    return "\n".join(lines)
