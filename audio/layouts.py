"""Where the clips of a data set lie, and which of them are held out.

folder           train/, validation/ and maybe test/ with clips at any depth; or clips alone, cut by `data.split`
ljspeech         metadata.csv (id|transcript|normalised transcript) and wavs/ID.wav or .flac; train.txt, valid.txt and
                 maybe test.txt list ids, and without them the ids are cut by `data.split`
librispeech      train-*/, dev-*/ and maybe test-*/ with speaker/chapter/speaker-chapter-utterance.flac
speechcommands   WORD/SPEAKER_nohash_NUMBER.wav; testing_list.txt and validation_list.txt name the held-out ones, and
                 without the latter `data.split` cuts validation from the rest

Names that do not follow their layout, and names in a list that are not there, stay in the list of sources, so that they
are skipped with a reason and not silently.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from audio.clip_header import ClipError
from audio.config import DataConfig
from audio.waveform import open_regular
from lm.config import SplitConfig
from training.errors import InputError

SPLITS = ("train", "validation", "test")
LISTS = {"train.txt": "train", "valid.txt": "validation", "test.txt": "test"}
PARTS = {"train-": "train", "dev-": "validation", "test-": "test"}
_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}")
_UTTERANCE = re.compile(r"(\d+)-(\d+)-(\d+)")
_COMMAND = re.compile(r"([^/.][^/]*)/([^/]+)_nohash_(\d+)(\.[A-Za-z0-9]+)+")

Label = str | int


class Source(NamedTuple):
    """One clip of a split."""

    split: str
    path: Path
    labels: tuple[Label, ...]
    """The labels that its layout gives it, in the order of torchaudio's tuples after waveform and rate."""
    problem: str = ""
    """Why it cannot be used, if that is known before it is read."""


def find_sources(config: DataConfig) -> list[Source]:
    """The clips of a data set, split by split, each in the order of names or of its list.

    Raises InputError if there is no folder, its layout is another, or train or validation has no clip.
    """
    root = Path(config.path)
    if not root.is_dir():
        kind = "is not a folder" if root.exists() else "there is no such folder"
        origin = config.origin.strip() or f"expected a folder of clips in the layout {config.layout}"
        raise InputError(f"data.path: {root.absolute()}: {kind}\n{origin}\nif it lies elsewhere: data.path=WHERE")
    find = {"folder": _folder, "ljspeech": _ljspeech, "librispeech": _librispeech, "speechcommands": _speechcommands}
    found = find[config.layout](root, config)
    counts = {split: sum(source.split == split for source in found) for split in SPLITS}
    for split in SPLITS[:2]:
        if not counts[split]:
            raise InputError(
                f"{root}: has no clip for {split} in the layout {config.layout} "
                f"({', '.join(f'{name} {count}' for name, count in counts.items())}; formats "
                f"{', '.join(config.formats)})"
            )
    return sorted(found, key=lambda source: SPLITS.index(source.split))


def spread(count: int, split: SplitConfig) -> list[str]:
    """A split for each of `count` clips: shares as even over their order as whole clips allow."""
    shares = {"train": split.train, "validation": split.validation, "test": split.test}
    total, due = sum(shares.values()), dict.fromkeys(shares, 0.0)
    chosen = []
    for _ in range(count):
        for name, share in shares.items():
            due[name] += share / total
        name = max(due, key=lambda name: round(due[name], 9))
        due[name] -= 1
        chosen.append(name)
    return chosen


def _folder(root: Path, config: DataConfig) -> list[Source]:
    if (root / "train").is_dir():
        return [
            Source(split, path, (path.relative_to(root).as_posix(),))
            for split in SPLITS
            if (root / split).is_dir()
            for path in _clips(root / split, config.formats)
        ]
    paths = _clips(root, config.formats)
    splits = spread(len(paths), config.split)
    return [
        Source(split, path, (path.relative_to(root).as_posix(),)) for split, path in zip(splits, paths, strict=True)
    ]


def _ljspeech(root: Path, config: DataConfig) -> list[Source]:
    transcripts = {}
    for row in csv.reader(_lines(root / "metadata.csv"), delimiter="|", quoting=csv.QUOTE_NONE):
        if row:
            transcripts[row[0]] = (row[1] if len(row) > 1 else "", row[-1] if len(row) > 1 else "")
    listed = {
        name: [Path(line.partition("|")[0].strip()).stem for line in _lines(root / name) if line.strip()]
        for name in LISTS
        if (root / name).exists()
    }
    if listed:
        pairs = [(LISTS[name], clip_id) for name, ids in listed.items() for clip_id in ids]
        _refuse_shared(root, pairs)
    else:
        pairs = list(zip(spread(len(transcripts), config.split), transcripts, strict=True))
    sources = []
    for split, clip_id in pairs:
        if not _ID.fullmatch(clip_id):
            sources.append(Source(split, root / "wavs" / "?", ("", ""), f"its id {clip_id[:60]!r} is not a plain name"))
            continue
        candidates = [root / "wavs" / f"{clip_id}.{suffix}" for suffix in config.formats]
        path = next((path for path in candidates if os.path.lexists(path)), candidates[0])
        sources.append(Source(split, path, transcripts.get(clip_id, ("", ""))))
    return sources


def _refuse_shared(root: Path, pairs: Iterable[tuple[str, str]]) -> None:
    """A clip in two lists would be trained on and tested on."""
    splits: dict[str, str] = {}
    for split, clip_id in pairs:
        if clip_id in splits:
            raise InputError(f"{root}: the id {clip_id!r} is listed twice, in {splits[clip_id]} and in {split}")
        splits[clip_id] = split


def _librispeech(root: Path, config: DataConfig) -> list[Source]:
    if (root / "LibriSpeech").is_dir():
        root = root / "LibriSpeech"
    sources = []
    for part in sorted(path for path in root.iterdir() if path.is_dir()):
        split = next((split for prefix, split in PARTS.items() if part.name.startswith(prefix)), None)
        if split is None:
            continue
        transcripts: dict[Path, dict[str, str]] = {}
        for path in _clips(part, config.formats):
            name = _UTTERANCE.fullmatch(path.stem)
            if name is None:
                sources.append(Source(split, path, ("", 0, 0, 0), "is not named speaker-chapter-utterance"))
                continue
            speaker, chapter, utterance = name.groups()
            chapter_file = path.with_name(f"{speaker}-{chapter}.trans.txt")
            if chapter_file not in transcripts:
                lines = _lines(chapter_file) if chapter_file.exists() else []
                transcripts[chapter_file] = {line.partition(" ")[0]: line.partition(" ")[2].strip() for line in lines}
            transcript = transcripts[chapter_file].get(path.stem, "")
            sources.append(Source(split, path, (transcript, int(speaker), int(chapter), int(utterance))))
    return sources


def _speechcommands(root: Path, config: DataConfig) -> list[Source]:
    folders = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith(("_", ".")))
    missing = [word for word in config.words if word not in folders]
    if missing:
        raise InputError(f"data.words: {root} has no folder {', '.join(missing)}; it has {', '.join(folders)}")
    words = config.words or tuple(folders)
    paths = {path.relative_to(root).as_posix(): path for word in words for path in _clips(root / word, config.formats)}
    held_out: dict[str, str] = {}
    for name, split in (("validation_list.txt", "validation"), ("testing_list.txt", "test")):
        if (root / name).exists():
            entries = [line.strip() for line in _lines(root / name) if line.strip()]
            asked = [entry for entry in entries if not config.words or entry.partition("/")[0] in words]
            held_out |= dict.fromkeys(asked, split)
    rest = [name for name in paths if name not in held_out]
    if "validation" in held_out.values():
        splits = dict.fromkeys(rest, "train")
    else:
        shares = SplitConfig(config.split.train, config.split.validation, 0.0)
        splits = dict(zip(rest, spread(len(rest), shares), strict=True))
    return [_command(split, paths.get(name, root / name), name) for name, split in {**splits, **held_out}.items()]


def _command(split: str, path: Path, name: str) -> Source:
    parts = _COMMAND.fullmatch(name)
    if parts is None:
        return Source(split, path, ("", "", 0), f"{name[:60]!r} is not named WORD/SPEAKER_nohash_NUMBER")
    return Source(split, path, (parts[1], parts[2], int(parts[3])))


def _clips(folder: Path, formats: Sequence[str]) -> list[Path]:
    """Whatever is named like a clip, at any depth, and every link to a folder, which is not followed."""
    suffixes = tuple(f".{suffix}" for suffix in formats)
    return sorted(path for path in _paths(folder) if path.name.lower().endswith(suffixes) or path.is_dir())


def _paths(folder: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(folder, onerror=_raise):
        yield from (Path(place) / name for name in files)
        yield from (Path(place) / name for name in folders if (Path(place) / name).is_symlink())


def _raise(error: OSError) -> None:
    raise error


def _lines(path: Path) -> list[str]:
    try:
        with open_regular(path) as file:
            return file.read().decode().splitlines()
    except ClipError as error:
        raise InputError(f"{path}: {error}; the layout needs it") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: byte {error.start}: is not UTF-8 text") from error
