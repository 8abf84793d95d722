"""What a token is: the contract of vocabularies, and those of bytes, characters and symbols."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from training.errors import InputError

Tokens = NDArray[np.unsignedinteger[Any]]
"""(N,) token numbers in the smallest unsigned type that holds the vocabulary."""

PIECE = 2**22
"""Characters encoded at a time, so that the wide intermediate arrays stay small."""


class Vocabulary(Protocol):
    """A numbering of the pieces of text: `decode` gives the bytes that `encode` was given, but for words left out."""

    @property
    def size(self) -> int:
        """Tokens there are; they are numbered from 0."""

    @property
    def byte_lengths(self) -> NDArray[np.int64]:
        """(size,), the length of what each token stands for."""

    def encode(self, raw: bytes, where: str, offset: int = 0) -> Tokens:
        """The tokens of `raw`, which is at byte `offset` of `where`; raises InputError naming place and offset."""

    def decode(self, tokens: NDArray[Any]) -> bytes:
        """The bytes that tokens (N,) stand for."""

    def count_bytes(self, tokens: NDArray[Any]) -> int:
        """The length of what tokens (N,) stand for."""

    def description(self) -> dict[str, Any]:
        """JSON data from which `vocabularies.vocabulary_from` makes the same vocabulary."""


@dataclass(frozen=True)
class ByteVocabulary:
    """The 256 bytes."""

    size: int = 256

    @cached_property
    def byte_lengths(self) -> NDArray[np.int64]:
        """(size,), of 1."""
        return np.ones(self.size, dtype=np.int64)

    def encode(self, raw: bytes, where: str, offset: int = 0) -> Tokens:
        return np.frombuffer(raw, np.uint8)

    def decode(self, tokens: NDArray[Any]) -> bytes:
        return tokens.astype(np.uint8).tobytes()

    def count_bytes(self, tokens: NDArray[Any]) -> int:
        return len(tokens)

    def description(self) -> dict[str, Any]:
        return {"tokens": "bytes"}


@dataclass(frozen=True)
class CharacterVocabulary:
    """The characters of a text, each one Unicode code point of its UTF-8.

    >>> vocabulary = CharacterVocabulary(" aehmt\u00e9")
    >>> tokens = vocabulary.encode("th\u00e9".encode(), where="a file")
    >>> tokens
    array([5, 3, 6], dtype=uint8)
    >>> vocabulary.decode(tokens).decode()
    'th\u00e9'
    >>> vocabulary.count_bytes(tokens)
    4
    """

    characters: str
    """Each once, in the order of their code points."""

    @property
    def size(self) -> int:
        return len(self.characters)

    @cached_property
    def code_points(self) -> NDArray[np.uint32]:
        """(size,), ascending."""
        return to_code_points(self.characters)

    @cached_property
    def byte_lengths(self) -> NDArray[np.int64]:
        """(size,), the bytes of each character in UTF-8."""
        return np.array([len(character.encode()) for character in self.characters], dtype=np.int64)

    def encode(self, raw: bytes, where: str, offset: int = 0) -> Tokens:
        text = decode_utf8(raw, where, offset)
        tokens = np.empty(len(text), np.min_scalar_type(max(self.size - 1, 0)))
        for start in range(0, len(text), PIECE):
            points = to_code_points(text[start : start + PIECE])
            found = np.searchsorted(self.code_points, points).clip(max=self.size - 1)
            unknown = np.flatnonzero(self.code_points[found] != points)
            if len(unknown):
                place = start + int(unknown[0])
                byte = offset + len(text[:place].encode())
                raise InputError(
                    f"{where}: byte {byte}: the character {text[place]!r} is not among the {self.size} of the "
                    "vocabulary; a model of bytes reads any text"
                )
            tokens[start : start + PIECE] = found
        return tokens

    def decode(self, tokens: NDArray[Any]) -> bytes:
        raw: bytes = self.code_points[tokens].astype("<u4").tobytes()
        return raw.decode("utf-32-le").encode()

    def count_bytes(self, tokens: NDArray[Any]) -> int:
        return int(np.bincount(tokens, minlength=self.size) @ self.byte_lengths)

    def description(self) -> dict[str, Any]:
        return {"tokens": "characters", "characters": self.characters}


@dataclass(frozen=True)
class SymbolVocabulary:
    """Numbers, written with a space after each.

    >>> SymbolVocabulary(20).decode(np.array([3, 19]))
    b'3 19 '
    """

    size: int

    @cached_property
    def byte_lengths(self) -> NDArray[np.int64]:
        """(size,), of what each is written as."""
        return np.array([len(b"%d " % token) for token in range(self.size)], dtype=np.int64)

    def encode(self, raw: bytes, where: str, offset: int = 0) -> Tokens:
        words = raw.split()
        wrong = [word for word in words if not (word.isdigit() and len(word) < 10 and int(word) < self.size)]
        if wrong:
            word = wrong[0].decode(errors="replace")
            raise InputError(f"{where}: expected numbers from 0 to {self.size - 1}, got {word!r}")
        return np.array([int(word) for word in words], np.min_scalar_type(self.size - 1))

    def decode(self, tokens: NDArray[Any]) -> bytes:
        return b"".join(b"%d " % token for token in tokens.tolist())

    def count_bytes(self, tokens: NDArray[Any]) -> int:
        return int(self.byte_lengths[tokens].sum())

    def description(self) -> dict[str, Any]:
        return {"tokens": "symbols", "size": self.size}


def decode_utf8(raw: bytes, where: str, offset: int = 0) -> str:
    """The text of `raw`, which is at byte `offset` of `where`; raises InputError at the first byte not UTF-8."""
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        byte = offset + error.start
        raise InputError(
            f"{where}: byte {byte}: is not UTF-8 text ({error.reason}); data.tokens=bytes reads any file"
        ) from error


def to_code_points(text: str) -> NDArray[np.uint32]:
    """(N,), the Unicode code point of each character."""
    return np.frombuffer(text.encode("utf-32-le"), "<u4").astype(np.uint32, copy=False)
