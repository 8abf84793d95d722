"""Where the documents of a corpus lie: the layouts of its source.

    a file                                      cut by data.split: enwik8, tiny Shakespeare
    train/*.txt, validation/*.txt, test/*.txt   one document a file: PG-19
    wiki.{train,valid,test}.tokens              one document a split: WikiText-103
    {train,valid or validation,test}.txt        one document a split
    *.txt                                       one document a file, cut by data.split in the order of their names

A test split may be missing where it is not cut. Endings may be written in capitals. Hidden files are left out (macOS
writes a twin ._NAME beside each NAME on foreign disks), and so are, with a warning, those of a folder that hold nothing
but white space.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

from lm.config import DataConfig
from training.errors import InputError

SPLITS = ("train", "validation", "test")
LAYOUTS = "a folder with train/ and validation/ of .txt files, wiki.train.tokens and wiki.valid.tokens, or .txt files"


logger = logging.getLogger(__name__)


class Document(NamedTuple):
    """The bytes [start, stop) of a file: one document of a split."""

    split: str
    path: Path
    start: int
    stop: int

    def read(self) -> bytes:
        with self.path.open("rb") as file:
            file.seek(self.start)
            return file.read(self.stop - self.start)


def find_documents(config: DataConfig) -> list[Document]:
    """The documents of a file or folder, split by split in the order of their names.

    Raises InputError if there is nothing at the path, a split is missing, or a split or a lone file is empty.
    """
    path = Path(config.path)
    if path.is_dir():
        return _of_folder(path, config)
    if path.is_file():
        if not path.stat().st_size:
            raise InputError(f"{path}: is empty")
        return _cut([path], config)
    kind = "is neither a file nor a folder" if path.exists() else "there is no such file or folder"
    origin = config.origin.strip() or f"expected a text file, or {LAYOUTS}"
    raise InputError(f"data.path: {path.absolute()}: {kind}\n{origin}\nif it lies elsewhere: data.path=WHERE")


def _of_folder(root: Path, config: DataConfig) -> list[Document]:
    found = {split: _of_split(root, split) for split in SPLITS}
    if not any(found.values()):
        loose = _texts(root)
        if loose:
            return _cut(loose, config)
        raise InputError(f"data.path: {root.absolute()}: holds no text; expected {LAYOUTS}")
    for split in ("train", "validation"):
        if not found[split]:
            raise InputError(f"{root / split}: holds no .txt file; expected {LAYOUTS}")
    return [Document(split, path, 0, path.stat().st_size) for split, paths in found.items() for path in paths]


def _of_split(root: Path, split: str) -> list[Path]:
    """The files of one split."""
    short = "valid" if split == "validation" else split
    named = (root / f"wiki.{short}.tokens", root / f"{short}.txt", root / f"{split}.txt")
    return _texts(root / split) or _with_text([path for path in named if path.is_file()][:1], root)


def _texts(folder: Path) -> list[Path]:
    """The text files of a folder, in the order of their names."""
    found = folder.iterdir() if folder.is_dir() else []
    texts = (path for path in found if path.suffix.lower() == ".txt" and not path.name.startswith("."))
    return _with_text(sorted(path for path in texts if path.is_file()), folder)


def _with_text(paths: Iterable[Path], folder: Path) -> list[Path]:
    """Those of a folder's files that hold more than white space; the others are named in one warning."""
    blank = {path: _is_blank(path) for path in paths}
    if any(blank.values()):
        names = [path.name for path, is_blank in blank.items() if is_blank]
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        logger.warning("%s: left out, holding nothing but white space: %s%s", folder, ", ".join(names[:3]), more)
    return [path for path, is_blank in blank.items() if not is_blank]


def _is_blank(path: Path) -> bool:
    """Whether a file holds nothing but white space."""
    with path.open("rb") as file:
        return not any(piece.strip() for piece in iter(lambda: file.read(2**16), b""))


def _cut(paths: list[Path], config: DataConfig) -> list[Document]:
    """Files, one after the other, cut in proportion; a file that a cut goes through gives a document to each side."""
    sizes = [path.stat().st_size for path in paths]
    size, split = sum(sizes), config.split
    # As they are written, in decimals: 0.9 of 10 bytes is 9.
    parts = [Fraction(str(part)) for part in (split.train, split.validation, split.test)]
    cuts = [int(size * sum(parts[: count + 1]) / sum(parts)) for count in range(len(parts))]
    documents = []
    begin = 0
    for path, end in zip(paths, itertools.accumulate(sizes), strict=True):
        places = [min(max(cut, begin), end) - begin for cut in cuts]
        if config.tokens != "bytes":
            places = [_character_start(path, place) for place in places]
        borders = zip(SPLITS, itertools.pairwise([0, *places]), strict=True)
        documents += [Document(name, path, start, stop) for name, (start, stop) in borders if start < stop]
        begin = end
    for name, part in zip(SPLITS, parts, strict=True):
        if part and all(document.split != name for document in documents):
            raise InputError(f"{paths[0]}: is too short to be split: of its {size} bytes, none are for {name}")
    return sorted(documents, key=lambda document: SPLITS.index(document.split))


def _character_start(path: Path, cut: int) -> int:
    """The first byte from `cut` on that does not continue a UTF-8 character."""
    with path.open("rb") as file:
        file.seek(cut)
        following = file.read(3)
    continuing = 0
    while continuing < len(following) and following[continuing] & 0xC0 == 0x80:
        continuing += 1
    return cut + continuing
