"""What long tasks say of themselves on stderr: a live line each on a terminal, else a line now and then.

A task that says how long it is stays silent if it is short; one that cannot, such as a call of a library, is announced.
"""

from __future__ import annotations

import io
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar, Self, TextIO, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

LIVE_INTERVAL = 0.1
"""Seconds between two texts of a live line, which cost more than a step of a small model."""
PLAIN_INTERVAL = 10.0
"""Seconds between two lines, of whatever tasks, if the output is not a terminal."""
QUIET = 1.0
"""Seconds before the first line of a task that says how long it is."""
RECENT = 60.0
"""Seconds that a rate is averaged over."""
GRAIN = 1.0
"""Seconds at least between two counts that are kept for it."""

Item = TypeVar("Item")


class RecentRate:
    """How fast a count grows, averaged over the latest RECENT seconds.

    The first update pays for what is made once, such as actors and compiled kernels: it is not timed.
    """

    def __init__(self) -> None:
        self._marks: deque[tuple[float, int]] = deque()

    def add(self, count: int) -> None:
        """Note the count after an update."""
        now, marks = time.monotonic(), self._marks
        if len(marks) > 2 and marks[-1][0] - marks[-2][0] < GRAIN:
            marks.pop()
        marks.append((now, count))
        while len(marks) > 3 and now - marks[1][0] >= RECENT:
            marks.popleft()

    @property
    def value(self) -> float | None:
        """Counts a second; None until two updates are timed."""
        if len(self._marks) < 3:
            return None
        (began, first), (ended, last) = self._marks[0], self._marks[-1]
        return (last - first) / max(ended - began, 1e-9)


class ProgressLine:
    """How far a task is: what it does, its count, rate, time left and a figure or two.

    `total` is the count at its end, None where nobody knows; `unit` is what is counted.
    """

    _next_plain_line: ClassVar[float] = 0.0

    def __init__(
        self, total: int | None, start: int = 0, stream: TextIO | None = None, unit: str = "steps", what: str = ""
    ) -> None:
        self._stream: TextIO = stream or sys.stderr or io.StringIO()
        self._total, self._unit, self._what = total, unit, what
        self._began = time.monotonic()
        self._rate = RecentRate()
        self._next_live_text = 0.0
        self._live = LiveLine(self._stream, what, total, start) if self._stream.isatty() else None
        if self._live is None and total is None:
            print(what, file=self._stream, flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def rate(self) -> float | None:
        """Counts a second lately; None until two updates are timed."""
        return self._rate.value

    def update(self, count: int, figures: Mapping[str, float] | None = None, last: bool = False) -> None:
        """Show a count, and figures by the word they are shown with; the `last` line, of the count before, stays."""
        if not last:  # which shows once more what was shown
            self._rate.add(count)
        now = time.monotonic()
        if self._live is not None:
            if last or now >= self._next_live_text:
                self._live.show(count, self._text(count, figures or {}, last), last)
                self._next_live_text = now + LIVE_INTERVAL
        elif last or now >= max(self._began + QUIET, ProgressLine._next_plain_line):
            print(self._text(count, figures or {}, last), file=self._stream, flush=True)
            ProgressLine._next_plain_line = now + PLAIN_INTERVAL

    def close(self) -> None:
        """Take the live line away."""
        if self._live is not None:
            self._live.close()
            self._live = None

    def _text(self, count: int, figures: Mapping[str, float], last: bool) -> str:
        counted = f"{count:,}" if self._total is None else f"{count:,} / {self._total:,}"
        parts = [f"{self._what}: {counted} {self._unit}" if self._what else f"{counted} {self._unit}"]
        rate = self._rate.value
        if rate is not None and self._total is not None:
            parts.append(f"{rate:,.{0 if rate >= 10 else 2}f} {self._unit}/s")
            if rate > 0 and not last:
                parts.append(f"{_duration((self._total - count) / rate)} left")
        return "  ".join([*parts, *(f"{word} {value:.3g}" for word, value in figures.items())])


class LiveLine:
    """One of the live lines of a terminal, which stand one below the other."""

    _shared: ClassVar[Progress | None] = None
    _open: ClassVar[int] = 0

    def __init__(self, stream: TextIO, what: str, total: int | None, start: int) -> None:
        if LiveLine._shared is None:
            columns = BarColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn()
            LiveLine._shared = Progress(*columns, console=Console(file=stream), transient=True)
            LiveLine._shared.start()
        LiveLine._open += 1
        self._progress = LiveLine._shared
        self._task: TaskID = self._progress.add_task(what, total=total, completed=start)

    def show(self, count: int, text: str, last: bool) -> None:
        """Show a text, for good if it is the last."""
        self._progress.update(self._task, completed=count, description=text)
        if last:
            self._progress.console.print(text, markup=False, highlight=False)

    def close(self) -> None:
        """Take the line away, and with the last one what shows them."""
        self._progress.remove_task(self._task)
        LiveLine._open -= 1
        if not LiveLine._open:
            self._progress.stop()
            LiveLine._shared = None


def track(items: Sequence[Item], what: str, unit: str) -> Iterator[Item]:
    """The items, with the number of those that are done on a progress line.

    >>> list(track(["a", "b"], what="reading", unit="letters"))
    ['a', 'b']
    """
    with ProgressLine(len(items), unit=unit, what=what) as line:
        for count, item in enumerate(items, 1):
            yield item
            line.update(count)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(max(int(seconds), 0), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{int(seconds):02}"
