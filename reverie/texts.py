"""The texts that a command is given as files."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from lm.loose_texts import Text
from training.errors import InputError

STANDARD_INPUT = "-"


def read_texts(paths: Sequence[str]) -> list[Text]:
    """The texts of files, each whole, and of the standard input, `-`; raises InputError for one that cannot be read."""
    texts = []
    for path in paths:
        if path == STANDARD_INPUT and sys.stdin is None:
            raise InputError("standard input: is closed")
        try:
            raw = sys.stdin.buffer.read() if path == STANDARD_INPUT else Path(path).read_bytes()
        except OSError as error:
            hint = "; key=value stands before --text" if "=" in path and not Path(path).exists() else ""
            raise InputError(f"{path}: cannot be read: {error.strerror or error}{hint}") from error
        texts.append(Text("standard input" if path == STANDARD_INPUT else path, raw))
    return texts
