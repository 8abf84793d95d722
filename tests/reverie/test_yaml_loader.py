"""YAML as configuration: plain data, no surprises of YAML 1.1, nothing that grows before it was judged."""

import math
import tracemalloc

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from reverie import yaml_loader
from reverie.yaml_loader import YamlError, dump, parse, read


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-4", 1e-4), ("1e+3", 1000.0), ("-.5", -0.5), ("3.", 3.0), ("0x1F", 31), ("0o17", 15), ("-0", 0),
     ("on", "on"), ("yes", "yes"), ("NO", "NO"), ("true", True), ("null", None), ("~", None), ("", None),
     ("1_000", "1_000"), ("+1", 1), ("12:30:45", "12:30:45"), ("2020-01-01", "2020-01-01"),
     (".inf", math.inf), ("'1'", "1"), ('"on"', "on"), ("0.5", 0.5),
     ("=", "="), ("1e", "1e"), ("e5", "e5"), ("0", 0), ("0e0", 0.0)],
)  # fmt: skip
def test_scalars_follow_yaml_1_2(text, value):
    read = parse(f"a: {text}").value["a"]
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize("text", ["010", "-007", "00", "01.5"])
def test_numbers_with_leading_zeros_are_ambiguous(text):
    document = parse(f"b: 1\na: {text}")
    assert len(document.problems) == 1
    assert "a (line 2)" in document.problems[0]
    assert "leading zeros" in document.problems[0]
    assert parse(f"a: '{text}'").value == {"a": text}


def test_repeated_keys_are_reported_with_both_lines_and_the_first_is_kept():
    document = parse("a: 1\nb: {c: 1, d: 2, c: 3}\na: {x: 1}\n")
    assert document.value == {"a": 1, "b": {"c": 1, "d": 2}}
    assert document.problems == [
        "b.c (line 2): repeated; it was set on line 2",
        "a (line 3): repeated; it was set on line 1",
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("!!python/object/apply:os.system ['true']", "tags"),
        ("a: !!python/name:os.system", "tags"),
        ("a: !x 1", "tags"),
        ("a: &x 1\nb: *x", "anchors"),
        ("a: *x", "anchors"),
        ("1: a", "key must be text"),
        ("? [a]\n: b", "key must be text"),
        ("a: 1\n---\nb: 2", "more than one document"),
        ("a: [1\nb: 2", "line 2"),
        ("a: \0", "not allowed"),
        ('a: "\\ud800"', "surrogate"),
        ('a: "\\U00110000"', "range"),
        ("a: %x", "cannot start any token"),
    ],
)
def test_what_a_configuration_has_no_use_for_is_refused(text, reason):
    with pytest.raises(YamlError, match=reason):
        parse(text)


@pytest.mark.parametrize(
    "text",
    ["[" * 10**4, "{a: " * 10**4, "- " * 10**4, "? " * 10**4, "\n".join(" " * i + "a:" for i in range(500)),
     "a: &a x\nb: [" + "*a, " * 10**6 + "]",
     "[" + "1," * 10**5 + "]", "\n".join(f"a{i}: 1" for i in range(20_000))],
    ids=["flow lists", "flow maps", "block lists", "keys", "block maps", "aliases", "long list", "many keys"],
)  # fmt: skip
def test_bombs_are_refused_before_they_are_built(text):
    tracemalloc.start()
    try:
        with pytest.raises(YamlError):
            parse(text)
        assert tracemalloc.get_traced_memory()[1] < 50 * 2**20
    finally:
        tracemalloc.stop()


def test_files_are_bounded_and_must_be_text(tmp_path):
    path = tmp_path / "big.yaml"
    with path.open("wb") as file:
        file.truncate(50 * 2**20)
    with pytest.raises(YamlError, match="larger than 1024 KiB"):
        read(path)
    path.write_bytes(b"a: \xff\xfe")
    with pytest.raises(YamlError, match="not UTF-8"):
        read(path)
    path.write_bytes("﻿a: 1".encode())
    assert read(path).value == {"a": 1}


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused_with_one_kind_of_error(text):
    try:
        document = parse(text)
    except YamlError:
        return
    assert isinstance(document.problems, list)


@given(st.text(st.characters(codec="utf-8"), max_size=40), st.floats(), st.integers())
def test_a_dump_reads_back_as_the_same_data(text, number, count):
    data = {
        "text": text,
        "number": number,
        "items": [count, {"nested": None}, (True, text)],
        "empty": {},
        "none": [],
    }
    value = parse(dump(data)).value
    assert value["text"] == text
    assert value["number"] == number or math.isnan(number)
    assert value["items"] == [count, {"nested": None}, [True, text]] or len(str(count)) > 40
    assert list(value) == list(data)


def test_equal_objects_are_written_out_and_not_aliased():
    shared = [1, 2]
    assert parse(dump({"a": shared, "b": shared})).value == {"a": [1, 2], "b": [1, 2]}


@given(st.dictionaries(st.sampled_from("abc"), st.integers() | st.text(st.sampled_from("xyz"), min_size=1)))
def test_plain_documents_read_as_pyyaml_reads_them(data):
    text = yaml.safe_dump(data)
    if all(len(str(value)) <= 40 for value in data.values()):
        assert parse(text).value == yaml.safe_load(text)


def test_the_depth_that_is_allowed_is_readable():
    depth = yaml_loader.MAX_DEPTH
    assert parse("[" * depth + "]" * depth).value
    with pytest.raises(YamlError, match="deeper"):
        parse("[" * (depth + 2) + "]" * (depth + 2))
