"""Where the documents of a corpus lie: the layouts of its source."""

from __future__ import annotations

import itertools
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

from lm.config import DataConfig, SplitConfig
from lm.errors import InputError

SPLITS = ("train", "validation", "test")


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

    Raises InputError if there is nothing at the path, a split is missing, or a file is empty.
    """
    path = Path(config.path)
    if path.is_dir():
        return _of_folder(path)
    if path.is_file():
        return _of_file(path, config.split, whole_characters=config.tokens == "characters")
    kind = "is neither a file nor a folder" if path.exists() else "there is no such file or folder"
    origin = config.origin.strip() or "expected a text file, or a folder with train/ and validation/ of .txt files"
    raise InputError(f"data.path: {path.absolute()}: {kind}\n{origin}\nif it lies elsewhere: data.path=WHERE")


def _of_folder(root: Path) -> list[Document]:
    documents = []
    for split in SPLITS:
        paths = sorted(path for path in (root / split).glob("*.txt") if path.is_file())
        if not paths and split != "test":
            raise InputError(
                f"{root / split}: holds no .txt file; expected train/, validation/ and maybe test/ of them"
            )
        documents += [Document(split, path, 0, path.stat().st_size) for path in paths]
    for document in documents:
        if document.stop == 0:
            raise InputError(f"{document.path}: is empty")
    return documents


def _of_file(path: Path, split: SplitConfig, whole_characters: bool) -> list[Document]:
    size = path.stat().st_size
    if size == 0:
        raise InputError(f"{path}: is empty")
    # As they are written, in decimals: 0.9 of 10 bytes is 9.
    parts = [Fraction(str(part)) for part in (split.train, split.validation, split.test)]
    cuts = [0, *(int(size * sum(parts[: count + 1]) / sum(parts)) for count in range(len(parts)))]
    if whole_characters:
        cuts = [_character_start(path, cut) for cut in cuts]
    documents = []
    for name, part, (start, stop) in zip(SPLITS, parts, itertools.pairwise(cuts), strict=True):
        if part and start == stop:
            raise InputError(f"{path}: is too short to be split: of its {size} bytes, none are for {name}")
        if part:
            documents.append(Document(name, path, start, stop))
    return documents


def _character_start(path: Path, cut: int) -> int:
    """The first byte from `cut` on that does not continue a UTF-8 character."""
    with path.open("rb") as file:
        file.seek(cut)
        following = file.read(3)
    continuing = 0
    while continuing < len(following) and following[continuing] & 0xC0 == 0x80:
        continuing += 1
    return cut + continuing
