"""The vocabulary of a corpus: made from its documents, or from the description of an earlier one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lm.config import DataConfig
from lm.documents import Document
from lm.vocabulary import ByteVocabulary, CharacterVocabulary, SymbolVocabulary, Vocabulary, decode_utf8
from lm.words import commonest_words, word_vocabulary_from

PIECE = 2**24
"""Characters gathered at a time."""


def make_vocabulary(config: DataConfig, documents: Iterable[Document]) -> Vocabulary:
    """The vocabulary of documents; words and sub-words are learned from the train split alone.

    Raises InputError for a document that is not UTF-8, where the tokens are not bytes.
    """
    if config.tokens == "bytes":
        return ByteVocabulary()
    if config.tokens == "characters":
        return _characters_of(documents)
    train = [document for document in documents if document.split == "train"]
    if config.tokens == "words":
        # Checked first, so that a word that cannot be decoded has its place named.
        texts = (_utf8(document).encode() for document in train)
        return commonest_words(texts, config.vocabulary_size, config.min_count)
    from lm.subwords import train_subwords  # imports tokenizers, which takes a moment

    return train_subwords((_utf8(document) for document in train), config.vocabulary_size or 8192)


def vocabulary_from(description: Mapping[str, Any]) -> Vocabulary:
    """The vocabulary of a `description`."""
    match description["tokens"]:
        case "bytes":
            return ByteVocabulary()
        case "characters":
            return CharacterVocabulary(description["characters"])
        case "words":
            return word_vocabulary_from(dict(description))
        case "subwords":
            from lm.subwords import subword_vocabulary_from

            return subword_vocabulary_from(dict(description))
        case "symbols":
            return SymbolVocabulary(description["size"])
        case other:
            raise ValueError(f"there is no vocabulary of {other!r}")


def _characters_of(documents: Iterable[Document]) -> CharacterVocabulary:
    """The characters of all splits: a held-out one that training lacks gets a number too, so none is unknown."""
    characters: set[str] = set()
    for document in documents:
        text = _utf8(document)
        for start in range(0, len(text), PIECE):
            characters.update(text[start : start + PIECE])
    return CharacterVocabulary("".join(sorted(characters)))


def _utf8(document: Document) -> str:
    return decode_utf8(document.read(), str(document.path), document.start)
