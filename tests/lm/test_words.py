"""Words: the conventions of WikiText-103, what is common and what is unknown."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm.config import DataConfig
from lm.corpus import prepare
from lm.vocabularies import vocabulary_from
from lm.words import WordVocabulary, commonest_words, words_of
from training.errors import InputError

TEXT = " = Title = \n the cat sat on the mat . \n\n the <unk> ran \n"


@given(text=st.text(alphabet="abé \n\t\xa0", max_size=60), piece=st.integers(1, 9))
def test_a_line_ends_with_eos_and_ascii_white_space_parts_words(text: str, piece: int) -> None:
    expected = [word for line in text.encode().split(b"\n") for word in [*line.split(), b"<eos>"]][:-1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lm.words.PIECE", piece)
        assert [word for part in words_of(text.encode(), "reading") for word in part] == expected


@given(
    words=st.lists(st.sampled_from(["a", "b", "c", "dé", "e", "<unk>", "\n"]), max_size=80),
    size=st.none() | st.integers(3, 8),
    min_count=st.integers(1, 6),
)
def test_the_commonest_words_come_first_and_all_others_are_unknown(
    words: list[str], size: int | None, min_count: int
) -> None:
    raw = " ".join(words).encode()
    vocabulary = commonest_words([raw], size, min_count)
    tokens = vocabulary.encode(raw, "text")
    written = ["<eos>" if word == "\n" else word for word in words]
    counts = Counter(written)
    kept = set(vocabulary.words) - {"<unk>", "<eos>"}
    assert [vocabulary.words[token] for token in tokens] == [w if w in {*kept, "<eos>"} else "<unk>" for w in written]
    occurrences = np.bincount(tokens, minlength=vocabulary.size)
    assert (np.diff(occurrences) <= 0).all()
    left_out = [word for word in counts if word not in {*kept, "<unk>", "<eos>"}]
    room = size is None or vocabulary.size < size
    assert all(counts[word] >= min_count for word in kept)
    assert all(counts[word] < min_count or not room for word in left_out)
    assert size is None or vocabulary.size <= size
    assert all(counts[out] <= counts[kept_word] for out in left_out for kept_word in kept)
    assert vocabulary_from(json.loads(json.dumps(vocabulary.description()))) == vocabulary
    assert vocabulary.encode(vocabulary.decode(tokens), "text").tolist() == tokens.tolist()
    assert vocabulary.count_bytes(tokens) == len(vocabulary.decode(tokens))


def test_wikitext_lies_in_its_own_layout_and_its_words_are_learned_from_the_train_split(tmp_path: Path) -> None:
    for split, text in {"train": TEXT, "valid": " the dog sat \n", "test": " cat \n"}.items():
        (tmp_path / f"wiki.{split}.tokens").write_text(text)
    corpus = prepare(DataConfig(str(tmp_path), "words", cache=str(tmp_path / "cache")))
    assert isinstance(corpus.vocabulary, WordVocabulary)
    assert corpus.vocabulary.words[:3] == ("<eos>", "the", "=")
    validation = corpus.splits["validation"]
    assert [corpus.vocabulary.words[t] for t in validation.tokens] == ["the", "<unk>", "sat", "<eos>"]
    assert [len(split.tokens) for split in corpus.splits.values()] == [17, 4, 2]


def test_a_text_without_words_or_of_bytes_is_named(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    config = DataConfig(str(path), "words", cache=str(tmp_path / "cache"))
    path.write_bytes(b" \t " * 20)
    with pytest.raises(InputError, match=r"text\.txt: holds nothing but white space, so the train split"):
        prepare(config)
    path.write_bytes(b"word " * 5 + b"\xff")
    with pytest.raises(InputError, match="byte 25: is not UTF-8"):
        prepare(config)
