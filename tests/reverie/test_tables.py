"""Combinations of overrides, and tables of results."""

from __future__ import annotations

import pytest

from reverie.tables import combinations, format_number, print_table


def test_overrides_are_combined() -> None:
    assert combinations([]) == [[]]
    assert combinations(["a=1"]) == [["a=1"]]
    assert combinations(["a=1,2", "b=3"]) == [["a=1", "b=3"], ["a=2", "b=3"]]
    assert combinations(["a=[1,2]", "b={c: 1, d: 2}"]) == [["a=[1,2]", "b={c: 1, d: 2}"]]


def test_columns_of_a_table_are_as_wide_as_their_widest_cell(capsys: pytest.CaptureFixture[str]) -> None:
    print_table([["memory", "bits"], ["core.memory_length=8", "1.5"]])
    assert capsys.readouterr().out == "  memory                bits\n  core.memory_length=8  1.5\n"


def test_a_missing_number_is_a_dash() -> None:
    assert format_number(None, ".4f") == "-"
    assert format_number(1.23456, ".2f") == "1.23"
