"""Sub-words as tokens: byte-level BPE (Sennrich et al., 1508.07909; Radford et al., 2019), without loss."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer

from lm.vocabulary import Tokens, decode_utf8
from training.progress import ProgressLine

PIECE = 2**18
"""Characters encoded at a time."""
TRAINING_PIECE = 2**12
"""Characters learned from at a time: the time to learn from a line without a space is quadratic in its length."""
GLANCE = 0.2
"""Seconds between two looks at whether the library has learned, at which a signal is heard too."""
_BETWEEN_WORDS = re.compile(r"(?<=\S)(?=\s\S)")
"""Where a text can be cut without another result: words are merged with one space before them, never across it."""


@dataclass(frozen=True)
class SubwordVocabulary:
    """Pieces of words, learned from a text by merging the commonest pairs; any UTF-8 text has an encoding."""

    pieces: tuple[str, ...]
    """The bytes of each token, with a letter for each byte as GPT-2 writes them."""
    merges: tuple[str, ...]
    """The merged pairs `left right`, the first merged first."""

    @property
    def size(self) -> int:
        return len(self.pieces)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The library's tokenizer."""
        numbers = {piece: number for number, piece in enumerate(self.pieces)}
        left_and_right = [(left, right) for left, _, right in (merge.partition(" ") for merge in self.merges)]
        tokenizer = Tokenizer(BPE(numbers, left_and_right))
        tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
        tokenizer.decoder = ByteLevelDecoder()
        return tokenizer

    @cached_property
    def texts(self) -> list[bytes]:
        """The bytes of each token."""
        number = {letter: byte for byte, letter in enumerate(letters_of_bytes())}
        return [bytes(number[letter] for letter in piece) for piece in self.pieces]

    @cached_property
    def byte_lengths(self) -> NDArray[np.int64]:
        """(size,), of `texts`."""
        return np.array([len(text) for text in self.texts], dtype=np.int64)

    def encode(self, raw: bytes, where: str, offset: int = 0) -> Tokens:
        text = decode_utf8(raw, where, offset)
        dtype = np.min_scalar_type(self.size - 1)
        parts, count = [np.empty(0, dtype)], 0
        with ProgressLine(len(text), unit="characters", what="encoding the text") as line:
            for piece in pieces_of(text, PIECE):
                parts.append(np.array(self.tokenizer.encode(piece).ids, dtype))
                count += len(piece)
                line.update(count)
        return np.concatenate(parts)

    def decode(self, tokens: NDArray[Any]) -> bytes:
        return b"".join([self.texts[token] for token in tokens.tolist()])

    def count_bytes(self, tokens: NDArray[Any]) -> int:
        return int(np.bincount(tokens, minlength=self.size) @ self.byte_lengths)

    def description(self) -> dict[str, Any]:
        return {"tokens": "subwords", "pieces": "\n".join(self.pieces), "merges": "\n".join(self.merges)}


def subword_vocabulary_from(description: dict[str, Any]) -> SubwordVocabulary:
    """The vocabulary of a `description`."""
    return SubwordVocabulary(tuple(description["pieces"].split("\n")), tuple(description["merges"].split("\n")))


def train_subwords(texts: Iterable[str], size: int) -> SubwordVocabulary:
    """The 256 bytes and the merges of the commonest pairs of texts, `size` tokens in all, or all pairs there are."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    trainer = BpeTrainer(vocab_size=size, show_progress=False, special_tokens=[], initial_alphabet=ByteLevel.alphabet())
    _learn(tokenizer, trainer, (piece for text in texts for piece in pieces_of(text, TRAINING_PIECE)), size)
    model = json.loads(tokenizer.to_str())["model"]
    pieces = sorted(model["vocab"], key=model["vocab"].__getitem__)
    return SubwordVocabulary(tuple(pieces), tuple(" ".join(pair) for pair in model["merges"]))


def _learn(tokenizer: Tokenizer, trainer: BpeTrainer, pieces: Iterator[str], size: int) -> None:
    """Train a tokenizer in a thread of its own: this one would hear no signal before the library is done."""
    characters, errors = 0, list[Exception]()

    def counted() -> Iterator[str]:
        nonlocal characters
        for piece in pieces:
            yield piece
            characters += len(piece)

    def learn() -> None:
        try:
            tokenizer.train_from_iterator(counted(), trainer)
        except Exception as error:  # raised below, where it is expected
            errors.append(error)

    thread = threading.Thread(target=learn, daemon=True)
    thread.start()
    with ProgressLine(None, unit="characters", what=f"learning {size:,} sub-words") as line:
        while thread.is_alive():
            thread.join(GLANCE)
            line.update(characters)
    if errors:
        raise errors[0]


def pieces_of(text: str, size: int) -> Iterator[str]:
    """The text in pieces of `size` to 2 `size`, cut before a single space between words, or anywhere without one."""
    start = 0
    while start < len(text):
        place = _BETWEEN_WORDS.search(text, start + size, start + 2 * size)
        stop = place.start() if place else start + 2 * size
        yield text[start:stop]
        start = stop


def letters_of_bytes() -> list[str]:
    """The letter that stands for each byte: itself where it is printable in Latin-1, else from U+0100 on."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]
