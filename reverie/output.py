"""What is printed may find its reader gone, its disk full or its terminal without the characters: a run goes on."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast

from training.printable import printable


class LossyStream:
    """A text stream that drops what cannot be written and escapes characters that its encoding lacks.

    It writes past the buffer of the stream that it stands for, so that nothing is left there to fail at exit.
    """

    def __init__(self, stream: TextIO) -> None:
        """Raises OSError for a stream without a file descriptor."""
        self._stream = stream
        self._descriptor = stream.fileno()

    def write(self, text: str) -> int:
        data = text.encode(self._stream.encoding or "ascii", "backslashreplace")
        with contextlib.suppress(OSError):
            while data:
                data = data[os.write(self._descriptor, data) :]
        return len(text)

    def flush(self) -> None:
        """Nothing is held back."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def lossy_output(*names: str) -> Iterator[None]:
    """Lend `sys` lossy streams under some of the names stdout and stderr; a closed one is os.devnull."""
    with contextlib.ExitStack() as stack:
        for name in names:
            own: TextIO | None = getattr(sys, name)
            if own is None:
                own = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
            with contextlib.suppress(io.UnsupportedOperation, AttributeError):  # one that is no file, as in a notebook
                own.flush()
                stack.callback(setattr, sys, name, getattr(sys, name))
                setattr(sys, name, cast(TextIO, LossyStream(own)))
        yield


class PrintableFormatter(logging.Formatter):
    """Formats records of the log, of which parts may come from a file."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def escape_unknown_characters(stream: TextIO | None) -> None:
    """Let a stream write characters that its encoding lacks as escapes."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")


def discard_output() -> None:
    """Send what is still to be written to stdout nowhere, since nobody reads it any more."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
