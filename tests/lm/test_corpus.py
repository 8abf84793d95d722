"""Corpora: what is prepared is what was written, cut where it should be, and never stale; bad text is named."""

from __future__ import annotations

import contextlib
import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm import vocabulary as vocabulary_module
from lm.config import DataConfig, SplitConfig
from lm.corpus import count_words, prepare
from lm.documents import SPLITS, find_documents
from lm.vocabularies import vocabulary_from
from lm.vocabulary import CharacterVocabulary
from training.errors import InputError

SHAKESPEARE = Path(__file__).parents[2] / "data" / "tinyshakespeare" / "input.txt"


def file_config(folder: Path, raw: bytes, tokens: str = "bytes", **split: float) -> DataConfig:
    path = folder / "text.txt"
    path.write_bytes(raw)
    shares = SplitConfig(**split) if split else SplitConfig(0.5, 0.5)
    return DataConfig(str(path), tokens, shares, str(folder / "cache"))  # type: ignore[arg-type]


@given(raw=st.binary(min_size=2, max_size=200))
def test_the_bytes_of_a_file_come_back_from_its_splits(raw: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        corpus = prepare(file_config(Path(folder), raw))
        parts = [corpus.vocabulary.decode(np.asarray(split.tokens)) for split in corpus.splits.values()]
        assert b"".join(parts) == raw
        assert [split.num_bytes for split in corpus.splits.values()] == [len(part) for part in parts]


@given(text=st.text(st.characters(codec="utf-8"), min_size=8, max_size=60))
def test_the_characters_of_a_file_come_back_and_none_is_cut(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        corpus = prepare(file_config(Path(folder), text.encode(), "characters"))
        tokens = np.concatenate([np.asarray(split.tokens) for split in corpus.splits.values()])
        assert len(tokens) == len(text)
        assert corpus.vocabulary.decode(tokens).decode() == text
        assert corpus.vocabulary.count_bytes(tokens) == len(text.encode())
        assert corpus.vocabulary.size == len(set(text))
        assert vocabulary_from(json.loads(json.dumps(corpus.vocabulary.description()))) == corpus.vocabulary


def test_a_file_is_cut_in_proportion(tmp_path: Path) -> None:
    def sizes(**parts: float) -> list[int]:
        return [len(split.tokens) for split in prepare(file_config(tmp_path, bytes(1000), **parts)).splits.values()]

    assert sizes(train=0.9, validation=0.1) == [900, 100]
    assert sizes(train=900, validation=50, test=50) == [900, 50, 50]
    assert sizes(train=0.7, validation=0.2, test=0.1) == [700, 200, 100]


def test_enwik8_is_cut_at_its_ninety_and_ninety_five_million_bytes(tmp_path: Path) -> None:
    path = tmp_path / "enwik8"
    with path.open("wb") as file:
        file.truncate(10**8)
    config = DataConfig(str(path), "bytes", SplitConfig(90_000_000, 5_000_000, 5_000_000), str(tmp_path / "cache"))
    cuts = [(document.split, document.start, document.stop) for document in find_documents(config)]
    assert cuts == [("train", 0, 90_000_000), ("validation", 90_000_000, 95_000_000), ("test", 95_000_000, 100_000_000)]


@given(
    texts=st.lists(st.text(alphabet="aé€", min_size=1, max_size=60), min_size=1, max_size=6),
    parts=st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(0, 9)),
    tokens=st.sampled_from(["bytes", "characters"]),
)
def test_a_folder_without_splits_is_cut_like_one_file(
    texts: list[str], parts: tuple[int, int, int], tokens: str
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for index, text in enumerate(texts):
            (folder / f"{index}.txt").write_text(text)
        config = DataConfig(name, tokens, SplitConfig(*map(float, parts)))  # type: ignore[arg-type]
        size = sum(len(text.encode()) for text in texts)
        if size < 60:  # where a split may come out empty
            with contextlib.suppress(InputError):
                find_documents(config)
            return
        documents = find_documents(config)
        assert b"".join(document.read() for document in documents) == "".join(texts).encode()
        assert [d.split for d in documents] == sorted((d.split for d in documents), key=SPLITS.index)
        train = sum(d.stop - d.start for d in documents if d.split == "train")
        assert 0 <= train - size * parts[0] // sum(parts) < (1 if tokens == "bytes" else 4)
        if tokens == "characters":
            assert "".join(document.read().decode() for document in documents) == "".join(texts)


@pytest.mark.parametrize("names", [("wiki.train.tokens", "wiki.valid.tokens", "wiki.test.tokens"),
                                   ("train.txt", "valid.txt", "test.txt"),
                                   ("train.txt", "validation.txt", "test.txt")])  # fmt: skip
def test_a_folder_may_hold_one_file_a_split(tmp_path: Path, names: tuple[str, str, str]) -> None:
    for index, name in enumerate(names):
        (tmp_path / name).write_text("word " * (index + 1))
    found = find_documents(DataConfig(str(tmp_path)))
    assert [(d.split, d.path.name, d.stop) for d in found] == list(zip(SPLITS, names, (5, 10, 15), strict=True))


def test_documents_of_a_folder_begin_where_their_files_do(books: Path, tmp_path: Path) -> None:
    corpus = prepare(DataConfig(str(books), "characters", cache=str(tmp_path / "cache")))
    assert list(corpus.splits) == ["train", "validation", "test"]
    for name, split in corpus.splits.items():
        texts = [path.read_text() for path in sorted((books / name).glob("*.txt"))]
        assert np.split(np.asarray(split.tokens), split.starts[1:])[-1].shape == (len(texts[-1]),)
        assert split.starts.tolist() == np.cumsum([0, *map(len, texts[:-1])]).tolist()
        assert split.num_words == sum(len(text.split()) for text in texts)


def test_twins_of_macos_are_no_documents(books: Path, tmp_path: Path) -> None:
    data = DataConfig(str(books), cache=str(tmp_path / "cache"))
    before = prepare(data).sha256
    for path in list(books.rglob("*.txt")):
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7" + bytes(4_092))
    assert prepare(data).sha256 == before


@pytest.mark.skipif(
    not SHAKESPEARE.exists(), reason=f"{SHAKESPEARE} is not there; the text configurations say how to get it"
)
def test_tiny_shakespeare_is_split_as_its_users_do(tmp_path: Path) -> None:
    corpus = prepare(DataConfig(str(SHAKESPEARE), "characters", cache=str(tmp_path)))
    assert [len(split.tokens) for split in corpus.splits.values()] == [1_003_854, 111_540]
    assert corpus.vocabulary.size == 65


def test_a_corpus_is_prepared_once_and_anew_when_its_source_or_its_files_change(tmp_path: Path) -> None:
    config = file_config(tmp_path, b"to be or not to be")
    first = prepare(config)
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.bin")}
    assert prepare(config).sha256 == first.sha256
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.bin")} == written

    damaged = next(iter(written))
    damaged.write_bytes(b"x" + damaged.read_bytes()[1:])
    again = prepare(config)
    assert again.sha256 == first.sha256
    assert again.vocabulary.decode(np.asarray(again.splits["train"].tokens)) == b"to be or "

    assert prepare(file_config(tmp_path, b"to be or not to bE")).sha256 != first.sha256
    assert not list((tmp_path / "cache").glob(".tmp-*"))


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"vocabulary": 3, "splits": {}}'])
def test_a_damaged_manifest_is_made_anew(tmp_path: Path, damage: str) -> None:
    config = file_config(tmp_path, b"abcdefgh")
    first = prepare(config)
    (manifest,) = (tmp_path / "cache").rglob("manifest.json")
    manifest.write_text(damage)
    assert prepare(config).sha256 == first.sha256


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "text.txt: is empty"),
        (b"x", "too short to be split"),
        (b"good \xff", "text.txt: byte 5: is not UTF-8 text"),
        (b"good\xed\xa0\x80", "byte 4: is not UTF-8"),
        (b"good \xe2\x80", "byte 5: is not UTF-8"),
    ],
)
def test_text_that_cannot_be_read_is_named_with_its_place(tmp_path: Path, raw: bytes, words: str) -> None:
    for tokens in ("characters", "words", "subwords"):
        with pytest.raises(InputError, match=words):
            prepare(file_config(tmp_path, raw, tokens))


@pytest.mark.parametrize(
    "raw", [b"\n" * 50, b"\xef\xbb\xbfword " * 9, b"a\0b\0" * 9, b"line\r\n" * 9, b"x" * 2**18, b"long line " * 10**4]
)
@pytest.mark.parametrize("tokens", ["bytes", "characters", "subwords"])
def test_odd_text_is_kept_as_it_is(tmp_path: Path, raw: bytes, tokens: str) -> None:
    corpus = prepare(file_config(tmp_path, raw, tokens))
    assert b"".join(corpus.vocabulary.decode(np.asarray(split.tokens)) for split in corpus.splits.values()) == raw


def test_missing_and_empty_sources_are_one_message(books: Path, tmp_path: Path) -> None:
    absent = DataConfig(str(tmp_path / "absent"), origin="get it with: fetch it", cache=str(tmp_path / "cache"))
    with pytest.raises(InputError, match=r"absent: there is no such file(.|\n)*fetch it(.|\n)*data\.path="):
        prepare(absent)
    folder = DataConfig(str(books), cache=str(tmp_path / "cache"))
    for path in (books / "validation").iterdir():
        path.unlink()
    with pytest.raises(InputError, match=r"validation: holds no \.txt file"):
        prepare(folder)


def test_what_lies_beside_the_texts_of_a_folder(books: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Hidden files are no texts, blank ones are left out by name, and an ending in capitals is an ending."""
    config = DataConfig(str(books), cache=str(tmp_path / "cache"))
    before = {path.name for path in (books / "train").iterdir()}
    (books / "train" / "._0.txt").write_bytes(b"\0\5\x16\7 of another program")
    (books / "train" / "5.txt").touch()
    (books / "train" / "6.txt").write_text(" \n\t\n" * 9)
    (books / "train" / "Z.TXT").write_text("a last book in capitals")
    found = {document.path.name for document in find_documents(config) if document.split == "train"}
    assert found == before | {"Z.TXT"}
    assert caplog.messages == [f"{books / 'train'}: left out, holding nothing but white space: 5.txt, 6.txt"]
    for path in (books / "validation").iterdir():
        path.write_text("")
    with pytest.raises(InputError, match=r"validation: holds no \.txt file"):
        find_documents(config)


def test_a_character_out_of_the_vocabulary_is_named_with_its_byte(tmp_path: Path) -> None:
    config = file_config(tmp_path, "aaé é€".encode(), "characters")
    with pytest.raises(InputError, match=r"text\.txt: byte 7: the character '€'"):
        prepare(config, CharacterVocabulary(" aé"))


def test_a_held_out_split_equal_to_training_is_pointed_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    prepare(file_config(tmp_path, b"same same "))
    assert "same text as the train split" in caplog.text


@given(raw=st.text(alphabet="ab \n\t", max_size=40).map(str.encode), piece=st.integers(1, 7))
def test_words_are_counted_as_python_splits_them(raw: bytes, piece: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lm.corpus.PIECE", piece)
        assert count_words(raw) == len(raw.split())


@given(text=st.text(alphabet="abcé€", max_size=40), piece=st.integers(1, 7))
def test_text_is_encoded_alike_in_pieces(text: str, piece: int) -> None:
    vocabulary = CharacterVocabulary("abcé€")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vocabulary_module, "PIECE", piece)
        assert vocabulary.encode(text.encode(), "text").tolist() == ["abcé€".index(c) for c in text]
