"""`metrics.jsonl`: one JSON object a line, with the step, the time and the scalars of one row.

`time` is the Unix time; `seconds` counts the training of the run so far, without the pauses between its processes.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from training.files import append, open_regular, replace_file

MAX_LINE = 2**20
"""Bytes of the longest line."""


def append_row(path: Path, step: int, now: float, seconds: float, values: Mapping[str, float]) -> None:
    """Append one row; if it cannot be written completely, remove its part and raise OSError."""
    # JSON has no NaN or infinity; null marks a value that is not finite.
    finite = {tag: value if math.isfinite(value) else None for tag, value in values.items()}
    line = json.dumps({"step": step, "time": now, "seconds": seconds, **finite}, allow_nan=False) + "\n"
    append(path, line.encode())


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file; lines that `append_row` does not write, or not completely, are skipped."""
    with open_regular(path) as file:
        return [row for row in map(_parse, _lines(file)) if row is not None]


def drop_rows_after(path: Path, step: int) -> None:
    """Rewrite the file, if there is one, without rows after `step` and without broken lines."""
    if not path.exists():
        return
    with open_regular(path) as source, replace_file(path) as target:
        for line in _lines(source):
            row = _parse(line)
            if row is not None and row["step"] <= step:
                target.write(line)


def training_seconds(path: Path) -> float:
    """The seconds of training up to the last row; 0 without one."""
    rows = read_rows(path) if path.exists() else []
    seconds = rows[-1].get("seconds", 0.0) if rows else 0.0
    return float(seconds) if isinstance(seconds, int | float) else 0.0


def _lines(file: io.BufferedReader) -> Iterator[bytes]:
    """The lines of a file, long ones in pieces."""
    return iter(lambda: file.readline(MAX_LINE), b"")


def _parse(line: bytes) -> dict[str, Any] | None:
    if not line.endswith(b"\n"):
        return None
    try:
        row = json.loads(line, parse_int=_integer, parse_float=_finite, parse_constant=_finite)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None


def _integer(digits: str) -> int:
    """Raises ValueError for a number beyond 64 bits."""
    number = int(digits)
    if abs(number) >= 2**63:
        raise ValueError("a number is beyond 64 bits")
    return number


def _finite(text: str) -> float:
    """Raises ValueError for a number that is not finite."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("a number is not finite")
    return number
