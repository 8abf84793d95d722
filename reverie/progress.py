"""The progress line of a run."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

PLAIN_INTERVAL = 10.0
"""Seconds between two lines if the output is not a terminal."""


class ProgressLine:
    """Steps, rate, time left and a metric or two: a live line on a terminal, otherwise a line every few seconds.

    `unit` is what is counted.
    """

    def __init__(self, total_steps: int, start_step: int, stream: TextIO | None = None, unit: str = "steps") -> None:
        self._stream, self._unit = stream or sys.stderr, unit
        self._total, self._first = total_steps, start_step
        self._started = time.monotonic()
        self._next_line = 0.0
        self._live: Progress | None = None
        if self._stream.isatty():
            console = Console(file=self._stream)
            self._live = Progress(BarColumn(), TextColumn("{task.description}"), console=console, transient=True)
            self._task = self._live.add_task("", total=total_steps, completed=start_step)
            self._live.start()

    def rate(self, step: int) -> float:
        """Steps a second since this process started training."""
        return (step - self._first) / max(time.monotonic() - self._started, 1e-9)

    def update(self, step: int, headline: Mapping[str, float], last: bool = False) -> None:
        rate = self.rate(step)
        text = f"{step:,} / {self._total:,} {self._unit}  {rate:,.{0 if rate >= 10 else 2}f} {self._unit}/s"
        if rate > 0 and not last:
            text += f"  {_duration((self._total - step) / rate)} left"
        text += "".join(f"  {word} {value:.3g}" for word, value in headline.items())
        if self._live is not None:
            self._live.update(self._task, completed=step, description=text)
            if last:
                self._live.console.print(text)
        elif last or time.monotonic() >= self._next_line:
            print(text, file=self._stream, flush=True)
            self._next_line = time.monotonic() + PLAIN_INTERVAL

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(max(int(seconds), 0), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{int(seconds):02}"
