"""`metrics.jsonl`: one JSON object a line, with the step, the time and the scalars of one row.

`time` is the Unix time; `seconds` counts the training of the run so far, without the pauses between its processes.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def append_row(path: Path, step: int, now: float, seconds: float, values: Mapping[str, float]) -> None:
    """Append one row; if it cannot be written completely, remove its part and raise OSError."""
    # JSON has no NaN or infinity; null marks a value that is not finite.
    finite = {tag: value if math.isfinite(value) else None for tag, value in values.items()}
    line = json.dumps({"step": step, "time": now, "seconds": seconds, **finite}, allow_nan=False) + "\n"
    end = path.stat().st_size if path.exists() else 0
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(line)
    except OSError:
        if path.exists():
            os.truncate(path, end)
        raise


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file; incomplete lines, left by an interrupted write, are skipped."""
    with path.open("rb") as file:
        return [row for row in map(_parse, file) if row is not None]


def drop_rows_after(path: Path, step: int) -> None:
    """Rewrite the file, if there is one, without rows after `step` and without broken lines."""
    if not path.exists():
        return
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)
    with path.open("rb") as source, temporary.open("xb") as target:  # "x" follows no link
        for line in source:
            row = _parse(line)
            if row is not None and row["step"] <= step:
                target.write(line)
        target.flush()
        os.fsync(target.fileno())
    os.replace(temporary, path)


def training_seconds(path: Path) -> float:
    """The seconds of training up to the last row; 0 without one."""
    rows = read_rows(path) if path.exists() else []
    seconds = rows[-1].get("seconds", 0.0) if rows else 0.0
    return float(seconds) if isinstance(seconds, int | float) else 0.0


def _parse(line: bytes) -> dict[str, Any] | None:
    if not line.endswith(b"\n"):
        return None
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None
