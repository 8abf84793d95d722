"""Words as tokens, in the conventions of WikiText-103: white space parts words, a line ends with <eos>."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lm.vocabulary import Tokens, decode_utf8
from training.progress import ProgressLine

UNKNOWN, END_OF_LINE = "<unk>", "<eos>"
PIECE = 2**24
"""Bytes parted into words at a time."""
_SPACE = re.compile(rb"[ \t\n\r\v\f]")


@dataclass(frozen=True)
class WordVocabulary:
    """The commonest words of a training text; all others become <unk>.

    `decode` writes a space after each word and a line feed for <eos>; `encode` gives back what it decodes.

    >>> vocabulary = WordVocabulary(("the", "<unk>", "<eos>", "cat"))
    >>> tokens = vocabulary.encode(b"the dog\\nthe cat\\n", where="a file")
    >>> tokens
    array([0, 1, 2, 0, 3, 2], dtype=uint8)
    >>> vocabulary.decode(tokens)
    b'the <unk> \\nthe cat \\n'
    """

    words: tuple[str, ...]
    """Each once, the commonest first; <unk> and <eos> are among them."""

    @property
    def size(self) -> int:
        return len(self.words)

    @cached_property
    def numbers(self) -> dict[bytes, int]:
        """The number of each word."""
        return {word.encode(): number for number, word in enumerate(self.words)}

    @cached_property
    def texts(self) -> list[bytes]:
        """The bytes that each token is written as."""
        return [b"\n" if word == END_OF_LINE else word.encode() + b" " for word in self.words]

    @cached_property
    def byte_lengths(self) -> NDArray[np.int64]:
        """(size,), of `texts`."""
        return np.array([len(text) for text in self.texts], dtype=np.int64)

    def encode(self, raw: bytes, where: str, offset: int = 0) -> Tokens:
        decode_utf8(raw, where, offset)
        unknown = self.numbers[UNKNOWN.encode()]
        dtype = np.min_scalar_type(self.size - 1)
        pieces = words_of(raw, "numbering words")
        parts = [np.array([self.numbers.get(word, unknown) for word in piece], dtype) for piece in pieces]
        return np.concatenate([*parts, np.empty(0, dtype)])

    def decode(self, tokens: NDArray[Any]) -> bytes:
        return b"".join([self.texts[token] for token in tokens.tolist()])

    def count_bytes(self, tokens: NDArray[Any]) -> int:
        return int(np.bincount(tokens, minlength=self.size) @ self.byte_lengths)

    def description(self) -> dict[str, Any]:
        return {"tokens": "words", "words": "\n".join(self.words)}


def word_vocabulary_from(description: dict[str, Any]) -> WordVocabulary:
    """The vocabulary of a `description`."""
    return WordVocabulary(tuple(description["words"].split("\n")))


def commonest_words(texts: Iterable[bytes], size: int | None, min_count: int) -> WordVocabulary:
    """The words of texts that occur `min_count` times or more, of them the `size` commonest; null is all.

    <unk>, counted as often as it stands in the text and in place of words left out, and <eos> take two of the places.
    """
    counts: Counter[bytes] = Counter()
    for raw in texts:
        for piece in words_of(raw, "counting words"):
            counts.update(piece)
    special = {word: counts.pop(word, 0) for word in (UNKNOWN.encode(), END_OF_LINE.encode())}
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    kept = [item for item in ranked[: None if size is None else size - len(special)] if item[1] >= min_count]
    special[UNKNOWN.encode()] += counts.total() - sum(count for _, count in kept)
    ranked = sorted([*kept, *special.items()], key=lambda item: (-item[1], item[0]))
    return WordVocabulary(tuple(word.decode() for word, _ in ranked))


def words_of(raw: bytes, what: str) -> Iterator[list[bytes]]:
    """The words of a text, with <eos> for each line feed, piece by piece; only ASCII white space parts words.

    `what` is what is done with them, for a progress line.
    """
    start = 0
    with ProgressLine(len(raw), unit="bytes", what=what) as line:
        while start < len(raw):
            space = _SPACE.search(raw, start + PIECE)
            stop = space.end() if space else len(raw)
            yield raw[start:stop].replace(b"\n", f" {END_OF_LINE} ".encode()).split()
            start = stop
            line.update(start)
