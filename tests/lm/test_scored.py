"""Scored documents: by position, with intervals, as a table of tokens, and against another model's."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm.comparison import DocumentScores, compare
from lm.loose_texts import Text, split_of
from lm.scored import ScoredSplit, document_units, ratio_interval
from lm.token_table import write_token_table
from lm.vocabulary import ByteVocabulary, CharacterVocabulary
from lm.words import WordVocabulary
from training.errors import InputError, UserError


def scored(*texts: bytes) -> ScoredSplit:
    split = split_of([Text(f"text {index}", raw) for index, raw in enumerate(texts)], ByteVocabulary())
    return ScoredSplit(split, np.random.default_rng(len(split.tokens)).random(len(split.tokens)))


@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=6))
def test_every_position_is_in_one_bucket_whose_bounds_are_powers_of_two(lengths: list[int]) -> None:
    split = scored(*(bytes(length) for length in lengths))
    buckets = split.by_position()
    assert [bucket.first for bucket in buckets] == [0, 1, 2, 4, 8, 16, 32][: len(buckets)]
    assert [bucket.last + 1 for bucket in buckets] == [*(bucket.first for bucket in buckets[1:]), max(lengths)]
    places = [place for length in lengths for place in range(length)]
    assert split.positions.tolist() == places
    for bucket in buckets:
        inside = [cost for cost, place in zip(split.nats, places, strict=True) if bucket.first <= place <= bucket.last]
        assert bucket.tokens == len(inside)
        assert bucket.nats_per_token == pytest.approx(np.mean(inside))


def test_documents_are_counted_in_bytes_or_words() -> None:
    characters, words = CharacterVocabulary("ené"), WordVocabulary(("<eos>", "<unk>"))
    split = split_of([Text("a", "né".encode()), Text("b", b"eee")], characters)
    by_characters = ScoredSplit(split, np.ones(5))
    assert document_units(by_characters, characters).tolist() == [3, 3]
    assert by_characters.document_nats.tolist() == [2, 3]
    by_words = ScoredSplit(split_of([Text("a", b"b c\n"), Text("b", b"d")], words), np.ones(4))
    assert document_units(by_words, words).tolist() == [3, 1]


def test_an_interval_is_that_of_a_ratio_over_documents() -> None:
    generator = np.random.default_rng(3)
    units = generator.integers(50, 150, 400).astype(np.float64)
    totals = units * (2 + generator.normal(0, 0.3, 400))
    interval = ratio_interval(totals, units)
    assert interval is not None
    assert interval == ratio_interval(totals, units)
    ratio = totals.sum() / units.sum()
    sigma = np.sqrt(((totals - ratio * units) ** 2).sum()) / units.sum()  # of a ratio, by the delta method
    assert interval == pytest.approx((ratio - 1.96 * sigma, ratio + 1.96 * sigma), abs=0.2 * sigma)
    assert ratio_interval(totals[:1], units[:1]) is None


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_a_token_table_has_every_token_once(tmp_path: Path, suffix: str) -> None:
    split = scored(b'a,"\n', b"\xc3\xa9")
    path = tmp_path / f"tokens.{suffix}"
    write_token_table(path, split, ByteVocabulary())
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file)) if suffix == "csv" else [json.loads(line) for line in file]
    assert [(int(row["document"]), int(row["position"])) for row in rows] == [
        *((0, place) for place in range(4)),
        *((1, place) for place in range(2)),
    ]
    assert [int(row["token"]) for row in rows] == [*b'a,"\n\xc3\xa9']
    assert [row["text"] for row in rows] == ["a", ",", '"', "\n", "\\xc3", "\\xa9"]
    assert [float(row["log_probability"]) for row in rows] == (-split.nats).tolist()
    assert os.listdir(tmp_path) == [path.name]


def test_a_table_that_cannot_be_written_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tokens.csv"
    path.write_text("before")

    def no_space(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(UserError, match=r"tokens.csv: cannot be written: No space left"):
        write_token_table(path, scored(b"abc"), ByteVocabulary())
    assert path.read_text() == "before"
    assert os.listdir(tmp_path) == [path.name]


def test_a_text_without_a_token_is_named() -> None:
    with pytest.raises(InputError, match="text 1: holds no token"):
        scored(b"abc", b"")


def test_a_comparison_is_paired_by_document() -> None:
    generator = np.random.default_rng(5)
    counts = generator.integers(100, 1000, 30).astype(np.float64)
    hard = counts * generator.uniform(1, 5, 30)  # documents differ far more than the models do
    names = [f"document {index}" for index in range(30)]
    first = DocumentScores("nats per token", names, names, hard, counts)
    second = dataclasses.replace(first, nats=hard + 0.1 * counts + generator.normal(0, 5, 30))
    result = compare(first, second, ["a", "b"])
    assert result.difference == pytest.approx(result.first - result.second)
    assert result.difference == pytest.approx(-0.1, abs=0.01)
    assert result.interval is not None
    assert result.interval[0] < result.difference < result.interval[1] < 0
    assert result.first_is_better > 20
    assert result.documents[3].difference == pytest.approx((first.nats - second.nats)[3] / counts[3])
    in_bits = [dataclasses.replace(scores, unit="bits per byte") for scores in (first, second)]
    bits = compare(in_bits[0], in_bits[1], ["a", "b"])
    assert bits.first == pytest.approx(result.first / np.log(2))
    other = dataclasses.replace(second, contents=[*names[1:], "another"])
    with pytest.raises(InputError, match="a is scored on 30 documents, b on 30, which are not the same"):
        compare(first, other, ["a", "b"])
