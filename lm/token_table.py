"""The cost of every single token, as a file for other programs."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lm.scored import ScoredSplit
from lm.vocabulary import Vocabulary
from training.errors import UserError
from training.files import replace_file

COLUMNS = ("document", "position", "token", "text", "log_probability")
"""Document and position in it count from 0; `token` is its number, `log_probability` in nats."""
PIECE = 2**16
"""Tokens written at a time."""

Row = tuple[int, int, int, str, float]


def write_token_table(path: Path, scored: ScoredSplit, vocabulary: Vocabulary) -> None:
    """Write a row of COLUMNS for each token of a split: as CSV to a .csv file, else as a JSON object a line.

    Bytes that are no UTF-8 by themselves stand in `text` as \\x and two digits. The file is there as a whole or not at
    all; raises UserError where it cannot be written.
    """
    form = _csv_lines if path.suffix == ".csv" else _json_lines
    try:
        with replace_file(path) as file:
            if path.suffix == ".csv":
                file.write(_csv_lines([COLUMNS]).encode())
            for rows in _rows(scored, vocabulary):
                file.write(form(rows).encode())
    except OSError as error:
        raise UserError(f"--per-token: {path}: cannot be written: {error.strerror or error}") from error


def _rows(scored: ScoredSplit, vocabulary: Vocabulary) -> Iterator[list[Row]]:
    documents = np.repeat(np.arange(len(scored.split.starts)), scored.lengths)
    positions = scored.positions
    text_of = _texts(vocabulary)
    for start in range(0, len(scored.nats), PIECE):
        part = slice(start, start + PIECE)
        tokens = np.asarray(scored.split.tokens[part]).tolist()
        columns = documents[part].tolist(), positions[part].tolist(), tokens, map(text_of, tokens)
        yield list(zip(*columns, (-scored.nats[part]).tolist(), strict=True))


def _texts(vocabulary: Vocabulary) -> Callable[[int], str]:
    known: dict[int, str] = {}

    def text_of(token: int) -> str:
        if token not in known:
            known[token] = vocabulary.decode(np.array([token])).decode(errors="backslashreplace")
        return known[token]

    return text_of


def _csv_lines(rows: list[Any]) -> str:
    lines = io.StringIO()
    csv.writer(lines, lineterminator="\n").writerows(rows)
    return lines.getvalue()


def _json_lines(rows: list[Row]) -> str:
    return "".join(json.dumps(dict(zip(COLUMNS, row, strict=True)), ensure_ascii=False) + "\n" for row in rows)
