"""Texts that are no corpus, such as files named on the command line, as a split whose documents they are."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lm.corpus import Split, count_words
from lm.vocabulary import Vocabulary
from training.errors import InputError


class Text(NamedTuple):
    """The bytes of one document, and where they are from."""

    name: str
    raw: bytes


def split_of(texts: Sequence[Text], vocabulary: Vocabulary) -> Split:
    """The split of texts, each a whole document.

    Raises InputError for a text without a token, or with something that is not in the vocabulary.

    >>> from lm.vocabulary import ByteVocabulary
    >>> split = split_of([Text("a", b"one"), Text("b", b"two three")], ByteVocabulary())
    >>> split.starts, split.num_words
    (array([0, 3]), 3)
    """
    documents = [vocabulary.encode(text.raw, text.name) for text in texts]
    for text, tokens in zip(texts, documents, strict=True):
        if not len(tokens):
            raise InputError(f"{text.name}: holds no token: it is empty, or nothing but white space")
    tokens = np.concatenate(documents)
    return Split(
        name="text",
        tokens=tokens,
        starts=np.cumsum([0, *map(len, documents[:-1])]),
        num_bytes=sum(len(text.raw) for text in texts),
        num_words=sum(count_words(text.raw) for text in texts if text.raw),
        sha256=hashlib.sha256(tokens.tobytes()).hexdigest(),
    )
