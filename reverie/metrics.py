"""The scalars of a run, written both to TensorBoard and to `metrics.jsonl`."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reverie.event_file import EventFile
from reverie.metrics_file import append_row, drop_rows_after, training_seconds
from reverie.run_folder import EVENTS, METRICS, SAMPLES
from training.files import make_folder

if TYPE_CHECKING:
    from audio.samples import AudioSamples


@dataclass
class Window:
    """The metrics of the updates since the last row: floats are averaged, of ints the latest value is kept."""

    sums: dict[str, float] = field(default_factory=dict)
    weights: dict[str, int] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises ValueError for what is not the state of a window."""
        for table in (self.sums, self.weights, self.counts):
            if not isinstance(table, dict) or not all(isinstance(value, int | float) for value in table.values()):
                raise ValueError("the window is not a mapping from metrics to numbers")
        if set(self.sums) != set(self.weights):
            raise ValueError("the window has sums without a number of updates")

    @property
    def is_empty(self) -> bool:
        """Whether no update came since the last row."""
        return not (self.sums or self.counts)

    def add(self, metrics: Mapping[str, float]) -> None:
        for tag, value in metrics.items():
            if isinstance(value, int):
                self.counts[tag] = int(value)
            else:
                self.sums[tag] = self.sums.get(tag, 0.0) + float(value)
                self.weights[tag] = self.weights.get(tag, 0) + 1

    def row(self) -> dict[str, float]:
        """The row of metrics; empties the window."""
        means = {tag: total / self.weights[tag] for tag, total in self.sums.items()}
        row = means | {tag: float(count) for tag, count in self.counts.items()}
        self.sums, self.weights, self.counts = {}, {}, {}
        return row

    def state(self) -> dict[str, Any]:
        """The window as plain data for a checkpoint, so that a resumed run logs the same rows."""
        return {"sums": dict(self.sums), "weights": dict(self.weights), "counts": dict(self.counts)}


class MetricWriter:
    """Appends rows to `metrics.jsonl` and to an event file; a failure to write is printed, not raised."""

    def __init__(self, folder: Path, first_step: int | None = None) -> None:
        """Open the files of a run folder; rows from `first_step` on are deleted, None is for a new run."""
        self._path = folder / METRICS
        self._samples = folder / SAMPLES
        self._failing: set[str] = set()
        self._events = EventFile(folder / EVENTS, first_step)
        if first_step is not None:
            with self._report_failure("metrics.jsonl"):
                drop_rows_after(self._path, first_step - 1)
        self._started = time.monotonic()
        if first_step is not None:
            with self._report_failure("metrics.jsonl"):
                self._started -= training_seconds(self._path)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append one row of scalars at `step`."""
        now = time.time()
        values = {tag: float(value) for tag, value in metrics.items()}
        with self._report_failure("metrics.jsonl"):
            append_row(self._path, step, now, time.monotonic() - self._started, values)
        with self._report_failure("the event file"):
            self._events.add_scalars(step, values, now)

    def write_samples(self, step: int, samples: AudioSamples) -> None:
        """Write the clips of a step, as files and as TensorBoard audio, with a picture of them."""
        with self._report_failure("the samples"):
            make_folder(self._samples)
            samples.save(self._samples / f"step-{step:012d}")
        with self._report_failure("the event file"):
            for clip in samples.clips:
                self._events.add_sound(step, f"samples/{clip.name}", clip.samples.clip(-1, 1), samples.rate)
            self._events.add_picture(step, "samples/log_mel", samples.picture())

    @contextlib.contextmanager
    def _report_failure(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if what not in self._failing:
                self._failing.add(what)
                print(f"warning: cannot write {what}: {error}; training goes on", file=sys.stderr)
        else:
            self._failing.discard(what)
