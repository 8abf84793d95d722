"""Corpora as memory-mapped token files, prepared once.

A prepared corpus is a folder of the cache, named by a hash of its sources and of how they are cut and numbered:

    train.bin, validation.bin, test.bin   the tokens of a split, document after document
    manifest.json                         sources, vocabulary, and the counts and SHA-256 of each split

Sources are hashed at every start, so a changed file is another corpus, never a stale one.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lm.config import DataConfig
from lm.documents import SPLITS, Document, find_documents
from lm.mapped import file_sha256, open_numbers
from lm.prepared import MANIFEST, atomic_folder, cache_root, open_or_make, read_manifest
from lm.vocabularies import make_vocabulary, vocabulary_from
from lm.vocabulary import Tokens, Vocabulary
from training.errors import InputError
from training.files import create_file, write_file
from training.progress import track

FORMAT = 2
PIECE = 2**24
"""Bytes searched for words at a time."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Split:
    """The documents of one split, one after the other."""

    name: str
    tokens: Tokens
    """(N,), memory-mapped."""
    starts: NDArray[np.int64]
    """(documents,), the first token of each."""
    num_bytes: int
    num_words: int
    """Runs of bytes that are not ASCII white space."""
    sha256: str
    """SHA-256 of the tokens."""
    scored: NDArray[np.bool_] | None = None
    """(N,), which tokens are to be predicted; None is all."""


@dataclass(frozen=True)
class Corpus:
    """A prepared corpus."""

    vocabulary: Vocabulary
    splits: dict[str, Split]
    sha256: str
    """SHA-256 of everything in the splits: tokens and document borders."""


def prepare(config: DataConfig, vocabulary: Vocabulary | None = None) -> Corpus:
    """The corpus of a configuration, from the cache or made now; with `vocabulary`, in that numbering.

    Raises InputError for text that is missing, empty or not in the vocabulary, with the path and byte offset.
    """
    try:
        documents = find_documents(config)
        paths = list(dict.fromkeys(document.path for document in documents))
        digests = {path: file_sha256(path) for path in track(paths, what="checking the text", unit="files")}
        folder = _place(config, documents, digests, vocabulary)
        corpus = open_or_make(folder, _open, lambda place: _make(place, config, documents, digests, vocabulary))
    except OSError as error:
        raise InputError(f"{error.filename or config.path}: {error.strerror or error}") from error
    _warn_of_equal_splits(corpus)
    return corpus


def _place(
    config: DataConfig, documents: Sequence[Document], digests: dict[Path, str], vocabulary: Vocabulary | None
) -> Path:
    identity = {
        "format": FORMAT,
        "documents": [[d.split, digests[d.path], d.start, d.stop] for d in documents],
        "vocabulary": vocabulary.description() if vocabulary is not None else _settings(config),
    }
    return cache_root(config.cache) / hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:32]


def _settings(config: DataConfig) -> dict[str, Any]:
    """The settings that a vocabulary depends on, beside the documents."""
    return {"tokens": config.tokens, "size": config.vocabulary_size, "min_count": config.min_count}


def _open(folder: Path) -> Corpus:
    """The corpus in a folder; raises as `open_or_make` expects."""
    manifest = read_manifest(folder)
    vocabulary = vocabulary_from(manifest["vocabulary"])
    splits = {name: _open_split(folder, name, entry, vocabulary.size) for name, entry in manifest["splits"].items()}
    return Corpus(vocabulary, splits, hashlib.sha256(json.dumps(manifest["splits"]).encode()).hexdigest())


def _open_split(folder: Path, name: str, entry: dict[str, Any], levels: int) -> Split:
    tokens, starts = open_numbers(folder, name, entry, levels)
    return Split(name, tokens, starts, int(entry["bytes"]), int(entry["words"]), entry["sha256"])


def _make(
    folder: Path,
    config: DataConfig,
    documents: Sequence[Document],
    digests: dict[Path, str],
    vocabulary: Vocabulary | None,
) -> None:
    """Prepare a corpus beside its place and rename it into it."""
    if vocabulary is None:
        vocabulary = make_vocabulary(config, documents)
    with atomic_folder(folder) as temporary:
        splits = {
            split: _write_split(temporary / f"{split}.bin", [d for d in documents if d.split == split], vocabulary)
            for split in SPLITS
            if any(d.split == split for d in documents)
        }
        for path, digest in digests.items():
            if file_sha256(path) != digest:
                raise InputError(f"{path}: changed while it was read")
        manifest = {
            "format": FORMAT,
            "sources": [
                {"path": str(path.absolute()), "size": path.stat().st_size, "sha256": digest}
                for path, digest in digests.items()
            ],
            "vocabulary": vocabulary.description(),
            "splits": splits,
        }
        write_file(temporary / MANIFEST, json.dumps(manifest).encode())


def _write_split(path: Path, documents: Sequence[Document], vocabulary: Vocabulary) -> dict[str, Any]:
    starts: list[int] = []
    count = num_bytes = num_words = 0
    dtype = np.min_scalar_type(vocabulary.size - 1)
    with create_file(path) as file:
        for document in track(documents, what=f"preparing the {path.stem} split", unit="documents"):
            raw = document.read()
            tokens = vocabulary.encode(raw, str(document.path), document.start).astype(dtype, copy=False)
            file.write(tokens.tobytes())
            if len(tokens):
                starts.append(count)
            count += len(tokens)
            num_bytes += len(raw)
            num_words += count_words(raw)
    if not count:
        raise InputError(f"{documents[0].path}: holds nothing but white space, so the {path.stem} split has no token")
    return {
        "tokens": count,
        "bytes": num_bytes,
        "words": num_words,
        "dtype": dtype.str,
        "sha256": file_sha256(path),
        "starts": starts,
    }


def count_words(raw: bytes) -> int:
    """The runs of bytes that are not ASCII white space."""
    is_space = np.zeros(256, dtype=bool)
    is_space[list(b" \t\n\r\v\f")] = True
    words, after_space = 0, True
    for start in range(0, len(raw), PIECE):
        space = is_space[np.frombuffer(raw[start : start + PIECE], np.uint8)]
        words += int(after_space and not space[0]) + int((space[:-1] & ~space[1:]).sum())
        after_space = bool(space[-1])
    return words


def _warn_of_equal_splits(corpus: Corpus) -> None:
    train = corpus.splits["train"]
    for split in corpus.splits.values():
        if split is not train and split.sha256 == train.sha256:
            logger.warning("the %s split is the same text as the train split", split.name)
