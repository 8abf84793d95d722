"""Sub-words: no text is lost, whatever it is; what was learned is data."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm.config import DataConfig
from lm.corpus import prepare
from lm.subwords import SubwordVocabulary, letters_of_bytes, pieces_of, train_subwords
from lm.vocabularies import vocabulary_from
from tests.lm.synthetic import sentences
from training.errors import InputError


@pytest.fixture(scope="module")
def vocabulary() -> SubwordVocabulary:
    return train_subwords([sentences(60), "Ünïcödé text, and 123 numbers.\n" * 20], 300)


@given(
    text=st.text(st.characters(codec="utf-8"), max_size=60) | st.text(alphabet="the maz\n\r\t—\ufeff\0", max_size=80)
)
def test_any_text_comes_back(vocabulary: SubwordVocabulary, text: str) -> None:
    tokens = vocabulary.encode(text.encode(), "text")
    assert vocabulary.decode(tokens) == text.encode()
    assert vocabulary.count_bytes(tokens) == len(text.encode())
    assert b"".join(vocabulary.decode(tokens[i : i + 1]) for i in range(len(tokens))) == text.encode()


def test_common_words_take_few_tokens(vocabulary: SubwordVocabulary) -> None:
    text = sentences(40, seed=3).encode()
    assert len(vocabulary.encode(text, "text")) < len(text) / 3
    assert vocabulary.size == 300
    assert {bytes([byte]) for byte in range(256)} <= set(vocabulary.texts)


def test_the_same_text_gives_the_same_vocabulary_and_its_description_gives_it_back(
    vocabulary: SubwordVocabulary,
) -> None:
    again = train_subwords([sentences(60), "Ünïcödé text, and 123 numbers.\n" * 20], 300)
    assert again == vocabulary
    copy = vocabulary_from(json.loads(json.dumps(vocabulary.description())))
    assert copy == vocabulary
    text = sentences(5, seed=9).encode()
    assert copy.encode(text, "text").tolist() == vocabulary.encode(text, "text").tolist()


@given(text=st.text(alphabet="ab, '\n\t", max_size=60), piece=st.integers(1, 9))
def test_a_text_is_encoded_alike_in_pieces_cut_between_words(
    vocabulary: SubwordVocabulary, text: str, piece: int
) -> None:
    whole = vocabulary.tokenizer.encode(text).ids
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lm.subwords.PIECE", piece)
        parts = list(pieces_of(text, piece))
        assert "".join(parts) == text
        longest = max(map(len, text.split() or [""])) + 2 * max((len(s) for s in text.split("a")), default=0)
        if longest < piece:  # so that a place between words is always near
            assert vocabulary.encode(text.encode(), "text").tolist() == whole


def test_one_line_without_a_space_is_cut_all_the_same(vocabulary: SubwordVocabulary) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lm.subwords.PIECE", 10)
        tokens = vocabulary.encode(b"maze" * 50, "text")
    assert vocabulary.decode(tokens) == b"maze" * 50


def test_letters_are_those_of_the_library() -> None:
    from tokenizers.pre_tokenizers import ByteLevel

    assert sorted(letters_of_bytes()) == sorted(ByteLevel.alphabet())
    letters = letters_of_bytes()
    assert (letters[ord("a")], letters[ord(" ")], letters[ord("\n")]) == ("a", "Ġ", "Ċ")


def test_a_corpus_of_subwords_is_learned_from_its_train_split(books: Path, tmp_path: Path) -> None:
    corpus = prepare(DataConfig(str(books), "subwords", vocabulary_size=300, cache=str(tmp_path / "cache")))
    texts = {name: b"".join(p.read_bytes() for p in sorted((books / name).iterdir())) for name in corpus.splits}
    for name, split in corpus.splits.items():
        assert corpus.vocabulary.decode(np.asarray(split.tokens)) == texts[name]
        assert split.num_words == len(texts[name].split())
    (books / "validation" / "0.txt").write_bytes(b"fine \xe2\x80")
    with pytest.raises(InputError, match=r"0\.txt: byte 5: is not UTF-8"):
        prepare(DataConfig(str(books), "subwords", vocabulary_size=300, cache=str(tmp_path / "cache")))
