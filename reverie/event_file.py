"""The event file of a run, for TensorBoard: written row by row, so that a disk that was full costs some rows alone."""

from __future__ import annotations

import io
import itertools
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard import summary

from training.files import append, make_folder

_count = itertools.count()


class EventFile:
    """Appends to a new event file in a folder; each method writes all of its events, or none and raises OSError."""

    def __init__(self, folder: Path, first_step: int | None = None) -> None:
        """Of earlier files TensorBoard hides what is at `first_step` or later; None hides nothing."""
        unique = f"{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{next(_count)}"
        self._path = folder / f"events.out.tfevents.{unique}"
        self._head = [Event(file_version="brain.Event:2")]
        if first_step is not None:
            self._head.append(Event(step=first_step, session_log=SessionLog(status=SessionLog.START)))

    def add_scalars(self, step: int, values: Mapping[str, float], now: float) -> None:
        """Add scalars by tag, measured at the Unix time `now`."""
        self._write(step, [summary.scalar(*item) for item in values.items()], now)  # type: ignore[no-untyped-call]

    def add_sound(self, step: int, tag: str, samples: NDArray[np.float32], rate: int) -> None:
        """Add samples (N,) in [-1, 1], `rate` of them a second."""
        sound = summary.audio(tag, torch.from_numpy(samples)[None], sample_rate=rate)  # type: ignore[no-untyped-call]
        self._write(step, [sound], time.time())

    def add_picture(self, step: int, tag: str, picture: NDArray[np.uint8]) -> None:
        """Add a picture (height, width, 3)."""
        image = summary.image(tag, picture, dataformats="HWC")  # type: ignore[no-untyped-call]
        self._write(step, [image], time.time())

    def _write(self, step: int, summaries: list[Summary], now: float) -> None:
        events = [*self._head, *(Event(step=step, summary=entry) for entry in summaries)]
        content = io.BytesIO()
        records = RecordWriter(content)
        for event in events:
            event.wall_time = now
            records.write(event.SerializeToString())
        make_folder(self._path.parent)
        append(self._path, content.getvalue())
        self._head = []
