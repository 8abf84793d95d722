"""Where the clips of a data set lie, and which of them are held out.

folder           train/, validation/ and maybe test/ with clips at any depth; or clips alone, dealt by `data.split`
ljspeech         metadata.csv (id|transcript|normalised transcript) and wavs/ID.wav or .flac; train.txt, valid.txt and
                 maybe test.txt list ids, and without them the ids are dealt by `data.split`. An id may have its format
                 (ID.wav) and the folder it is in
librispeech      train-*/, dev-*/ and maybe test-*/ with speaker/chapter/speaker-chapter-utterance.flac
speechcommands   WORD/SPEAKER_nohash_NUMBER.wav; testing_list.txt and validation_list.txt name the held-out ones, and
                 without the latter `data.split` deals validation from the rest

Names that begin with a dot are left out: macOS writes a twin ._NAME beside each NAME on foreign disks. Other names
that do not follow their layout, and names in a list that are not there, stay in the list of sources, so that they are
skipped with a reason and not silently.
"""

from __future__ import annotations

import logging
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from audio.clip_header import ClipError
from audio.config import DataConfig
from audio.waveform import open_clip
from training.errors import InputError

SPLITS = ("train", "validation", "test")
LISTS = {"train.txt": "train", "valid.txt": "validation", "test.txt": "test"}
PARTS = {"train-": "train", "dev-": "validation", "test-": "test"}
UNREAD = (".mp3", ".opus", ".ogg", ".m4a", ".aac", ".wma", ".aif", ".aiff", ".webm", ".flac", ".wav")
"""Endings of sound that may lie beside the clips and that `data.formats` may not name."""
_UTTERANCE = re.compile(r"(\d+)-(\d+)-(\d+)")
_COMMAND = re.compile(r"([^/.][^/]*)/([^/]+)_nohash_(\d+)(\.[A-Za-z0-9]+)+")

Label = str | int

logger = logging.getLogger(__name__)


class Source(NamedTuple):
    """One clip of a split."""

    split: str | None
    """None where the layout does not say, so that `audio.splits` deals it."""
    path: Path
    labels: tuple[Label, ...]
    """The labels that its layout gives it, in the order of torchaudio's tuples after waveform and rate."""
    problem: str = ""
    """Why it cannot be used, if that is known before it is read."""
    speaker: str = ""
    """Who speaks, where its name tells."""


def find_sources(config: DataConfig) -> list[Source]:
    """The clips of a data set, split by split, each in the order of names or of its list.

    Raises InputError if there is no folder, its layout is another, or train or validation has no clip.
    """
    root = Path(config.path)
    if not root.is_dir():
        kind = "is not a folder" if root.exists() else "there is no such folder"
        origin = config.origin.strip() or f"expected a folder of clips in the layout {config.layout}"
        raise InputError(f"data.path: {root.absolute()}: {kind}\n{origin}\nif it lies elsewhere: data.path=WHERE")
    if config.layout == "librispeech" and (root / "LibriSpeech").is_dir():
        root = root / "LibriSpeech"
    find = {"folder": _folder, "ljspeech": _ljspeech, "librispeech": _librispeech, "speechcommands": _speechcommands}
    found = find[config.layout](root, config)
    unread = _unread(root, config.formats)
    counts = {split: sum(source.split == split for source in found) for split in SPLITS}
    is_dealt = any(source.split is None for source in found)
    for split in SPLITS[:2]:
        if not is_dealt and not counts[split]:
            raise InputError(
                f"{root}: has no clip for {split} in the layout {config.layout} "
                f"({', '.join(f'{name} {count}' for name, count in counts.items())}; formats "
                f"{', '.join(config.formats)})" + "".join(f"\n{line}" for line in unread)
            )
    for line in unread:
        logger.warning("%s: %s", root, line)
    return sorted(found, key=lambda source: 0 if source.split is None else SPLITS.index(source.split))


def _unread(root: Path, formats: Sequence[str]) -> list[str]:
    """A line for each kind of sound file in a folder that is not read, with what would read it."""
    suffixes = [suffix for suffix in UNREAD if suffix.removeprefix(".") not in formats]
    counts = Counter(path.suffix.lower() for path in _paths(root) if path.suffix.lower() in suffixes)
    readable = {".wav": "wav", ".flac": "flac", ".ogg": "ogg"}
    return [
        f"files in {suffix} that are not read: {count}; "
        + (
            f"data.formats=[{','.join([*formats, readable[suffix]])}] reads them"
            if suffix in readable
            else f"convert each to WAV or FLAC: ffmpeg -i NAME{suffix} NAME.wav"
        )
        for suffix, count in counts.items()
    ]


def _folder(root: Path, config: DataConfig) -> list[Source]:
    if (root / "train").is_dir():
        return [
            Source(split, path, (path.relative_to(root).as_posix(),))
            for split in SPLITS
            if (root / split).is_dir()
            for path in _clips(root / split, config.formats)
        ]
    names = [(path, path.relative_to(root).as_posix()) for path in _clips(root, config.formats)]
    return [Source(None, path, (name,), speaker=_speaker(name)) for path, name in names]


def _speaker(name: str) -> str:
    """The speaker that a path SPEAKER/NAME, SPEAKER_NAME or SPEAKER-NAME tells, else nothing."""
    folder, _, file = name.partition("/")
    return folder if file else (re.split("[_-]", name, maxsplit=1)[0] if re.search("[_-]", name) else "")


class _Place(NamedTuple):
    """Where the clip of an id lies, or why it lies nowhere."""

    path: Path
    problem: str = ""


def _ljspeech(root: Path, config: DataConfig) -> list[Source]:
    files = _files_by_id(root / "wavs", config.formats)

    def place(clip_id: str) -> _Place:
        return _place(root / "wavs", files, clip_id, config.formats)

    transcripts: dict[_Place, tuple[Label, ...]] = {}
    for clip_id, *texts in (line.split("|") for line in _lines(root / "metadata.csv") if line.strip()):
        transcripts[place(clip_id)] = (texts[0], texts[-1]) if texts else ("", "")
    listed = [
        (split, place(line.partition("|")[0]))
        for name, split in LISTS.items()
        if (root / name).exists()
        for line in _lines(root / name)
        if line.strip()
    ]
    _refuse_shared(root, listed)
    undealt: list[tuple[str | None, _Place]] = [(None, found) for found in transcripts]
    return [
        Source(split, found.path, transcripts.get(found, ("", "")), found.problem, _speaker(found.path.name))
        for split, found in listed or undealt
    ]


def _files_by_id(folder: Path, formats: Sequence[str]) -> dict[str, Path]:
    """The clips in a folder by their path in it without the format; of several, that of the first format."""
    if not folder.is_dir():
        return {}
    paths = sorted(_clips(folder, formats), key=lambda path: _format_rank(path, formats), reverse=True)
    return {_normal(path.relative_to(folder).with_suffix("").as_posix()): path for path in paths}


def _format_rank(path: Path, formats: Sequence[str]) -> int:
    suffix = path.suffix.lower().removeprefix(".")
    return formats.index(suffix) if suffix in formats else len(formats)


def _place(folder: Path, files: Mapping[str, Path], clip_id: str, formats: Sequence[str]) -> _Place:
    """Where the clip of an id is, which may have its format and the folder that it is in before it."""
    name = _normal(clip_id.strip())
    endings = "|".join(map(re.escape, formats))
    bare = re.sub(rf"\.({endings})$", "", name, flags=re.IGNORECASE)
    file = bare.rpartition("/")[2]
    for candidate in (name, bare, bare.removeprefix("./").removeprefix(f"{folder.name}/"), file):
        if candidate in files:
            return _Place(files[candidate])
    if not file or file.startswith(".") or any(unicodedata.category(letter) == "Cc" for letter in bare):
        return _Place(folder / "?", f"its id {name[:60]!r} is not a plain name")
    if "/" in bare:
        return _Place(folder / "?", f"its id {name[:60]!r} names no clip in {folder.name}/")
    return _Place(folder / f"{bare}.{formats[0]}")


def _normal(name: str) -> str:
    """A name in one Unicode form: file systems, and those who type lists, compose letters or take them apart."""
    return unicodedata.normalize("NFC", name)


def _refuse_shared(root: Path, listed: Iterable[tuple[str, _Place]]) -> None:
    """A clip in two lists would be trained on and tested on."""
    splits: dict[_Place, str] = {}
    for split, place in listed:
        if place in splits:
            raise InputError(f"{root}: the id {place.path.stem!r} is listed twice, in {splits[place]} and in {split}")
        splits[place] = split


def _librispeech(root: Path, config: DataConfig) -> list[Source]:
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
    names = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith(("_", ".")))
    folders = {_normal(name): name for name in names}
    words = [_normal(word) for word in config.words] or list(folders)
    missing = [word for word in words if word not in folders]
    if missing:
        raise InputError(f"data.words: {root} has no folder {', '.join(missing)}; it has {', '.join(folders)}")
    clips = (path for word in words for path in _clips(root / folders[word], config.formats))
    paths = {_normal(path.relative_to(root).as_posix()): path for path in clips}
    held_out: dict[str, str] = {}
    for name, split in (("validation_list.txt", "validation"), ("testing_list.txt", "test")):
        if (root / name).exists():
            entries = [_normal(line.strip()) for line in _lines(root / name) if line.strip()]
            held_out |= {entry: split for entry in entries if not config.words or entry.partition("/")[0] in words}
    rest = "train" if "validation" in held_out.values() else None
    splits = {name: rest for name in paths if name not in held_out} | held_out
    return [_command(split, paths.get(name, root / name), name) for name, split in splits.items()]


def _command(split: str | None, path: Path, name: str) -> Source:
    parts = _COMMAND.fullmatch(name)
    if parts is None:
        return Source(split, path, ("", "", 0), f"{name[:60]!r} is not named WORD/SPEAKER_nohash_NUMBER")
    return Source(split, path, (parts[1], parts[2], int(parts[3])), speaker=parts[2])


def _clips(folder: Path, formats: Sequence[str]) -> list[Path]:
    """Whatever is named like a clip, at any depth, and every link to a folder, which is not followed."""
    suffixes = tuple(f".{suffix}" for suffix in formats)
    return sorted(path for path in _paths(folder) if path.name.lower().endswith(suffixes) or path.is_dir())


def _paths(folder: Path) -> Iterator[Path]:
    """The files of a folder and the links to folders in it, at any depth, without names that begin with a dot."""
    for place, folders, files in os.walk(folder, onerror=_raise):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(place) / name for name in files if not name.startswith("."))
        yield from (Path(place) / name for name in folders if (Path(place) / name).is_symlink())


def _raise(error: OSError) -> None:
    raise error


def _lines(path: Path) -> list[str]:
    """The lines of a text file, which end at line feeds alone: a transcript may hold Unicode's other separators."""
    try:
        with open_clip(path) as file:
            text = file.read().decode().removeprefix("\ufeff")
    except ClipError as error:
        raise InputError(f"{path}: {error}; the layout needs it") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: byte {error.start}: is not UTF-8 text") from error
    return re.split(r"\r\n|\n|\r", text)
