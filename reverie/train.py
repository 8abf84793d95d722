"""The training loop: update, log, save checkpoints, and stop cleanly on a signal."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from reverie import checkpoint
from reverie.checkpoint import CheckpointError
from reverie.metrics import MetricWriter, Window
from reverie.path_interface import SamplingPlan
from reverie.paths import Experiment
from reverie.progress import ProgressLine
from reverie.run_folder import CHECKPOINTS
from training.config import BaseTrainConfig
from training.trainer import Trainer

HEADLINES = {"episode/return": "return", "loss/next_token": "loss"}
"""The metrics that the progress line shows, by the word it shows them with."""
RATE = "throughput/steps_per_second"

logger = logging.getLogger(__name__)


def run(
    config: Experiment,
    trainer: Trainer,
    folder: Path,
    resume: bool,
    changed_data: bool = False,
    sampling: SamplingPlan | None = None,
) -> int:
    """Train until `trainer.total_steps`, in a run folder that this process has locked.

    With `changed_data`, the checkpoint to resume from may have been trained on other data.

    Returns the exit code: 0, 1 if the last checkpoint could not be saved, or 128 plus the number of the
    signal that stopped the run. Raises CheckpointError if `resume` finds checkpoints and none can be used.
    """
    with _stop_signals() as signals:
        saver = _Saver(folder / CHECKPOINTS, trainer, Window(), config.train.keep_checkpoints)
        checkpoint.remove_stale(saver.root)
        if resume:
            saver.restore(changed_data)
        writer = MetricWriter(folder, resume_step=trainer.step_count if resume else None)
        progress = ProgressLine(trainer.total_steps, trainer.step_count)
        try:
            _loop(config.train, trainer, saver, writer, progress, signals, sampling)
            saved = saver.is_current or saver.save()
        finally:
            progress.close()
            writer.close()
    if not saved:
        return 1
    return 128 + signals[0] if signals else 0


def _loop(
    config: BaseTrainConfig,
    trainer: Trainer,
    saver: _Saver,
    writer: MetricWriter,
    progress: ProgressLine,
    signals: list[int],
    sampling: SamplingPlan | None,
) -> None:
    next_log = _next_multiple(trainer.update_count, config.log_interval)
    next_save = _next_multiple(trainer.update_count, config.checkpoint_interval)
    headline: dict[str, float] = {}
    while trainer.step_count < trainer.total_steps and not signals:
        metrics = trainer.update()
        if sampling is not None and trainer.update_count % sampling.interval == 0:
            samples = sampling.sample()
            metrics |= samples.metrics
            writer.write_samples(trainer.step_count, samples)
        saver.window.add(metrics)
        headline |= {word: metrics[tag] for tag, word in HEADLINES.items() if tag in metrics}
        if trainer.update_count >= next_log:
            row = saver.window.row()
            writer.write(trainer.step_count, {**row, RATE: progress.rate(trainer.step_count)})
            next_log = _next_multiple(trainer.update_count, config.log_interval)
        if trainer.update_count >= next_save:
            saved = saver.save()
            next_save = _next_multiple(trainer.update_count, config.checkpoint_interval) if saved else next_log
        progress.update(trainer.step_count, headline)
    progress.update(trainer.step_count, headline, last=True)


def _next_multiple(count: int, interval: int) -> int:
    return (count // interval + 1) * interval


@dataclass
class _Saver:
    """Saves and restores a trainer, with the metrics that are not logged yet."""

    root: Path
    trainer: Trainer
    window: Window
    keep: int
    saved_update: int = -1

    @property
    def is_current(self) -> bool:
        """Whether the trainer's state is the last one saved."""
        return self.saved_update == self.trainer.update_count

    def save(self) -> bool:
        """Save a checkpoint; a failure is reported and leaves the older ones as they are."""
        trainer = self.trainer
        state = {"trainer": trainer.state(), "window": self.window.state()}
        try:
            checkpoint.save(self.root, trainer.step_count, trainer.weights(), state, trainer.fingerprint(), self.keep)
        except CheckpointError as error:
            logger.error("the checkpoint of step %d is not saved: %s", trainer.step_count, error)
            return False
        self.saved_update = trainer.update_count
        return True

    def restore(self, changed_data: bool) -> None:
        """Load the newest intact checkpoint and print its path; log where there is none yet."""
        trainer = self.trainer
        fingerprint = trainer.fingerprint()
        if changed_data:
            fingerprint = self._with_data_of_newest(fingerprint)
        found, skipped = checkpoint.newest(self.root, fingerprint)
        for entry in skipped:
            logger.warning("skipped a checkpoint: %s", entry.reason)
        if found is None:
            logger.warning("%s: holds no checkpoint yet; the run starts at step 0", self.root)
            return
        if set(found.state) != {"trainer", "window"}:
            raise CheckpointError(f"{found.path}: its state is not that of a training run")
        try:
            warnings = trainer.load(found.weights, found.state["trainer"])
        except (LookupError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"{found.path}: does not fit this configuration: {error}") from error
        for warning in warnings:
            logger.warning("%s", warning)
        self.window = Window(**found.state["window"])
        self.saved_update = trainer.update_count
        threads = torch.get_num_threads()
        if found.num_threads != threads:
            logger.warning(
                "the checkpoint was written with %d torch threads, this run has %d: the resume is not exact",
                found.num_threads,
                threads,
            )
        print(f"resumed from {found.path} at step {trainer.step_count:,}", file=sys.stderr, flush=True)

    def _with_data_of_newest(self, fingerprint: dict[str, Any]) -> dict[str, Any]:
        """The fingerprint with the data of the newest checkpoint in place of its own; a difference is logged."""
        found, _ = checkpoint.newest(self.root)
        if found is None or found.fingerprint.get("data") == fingerprint.get("data"):
            return fingerprint
        before, now = found.fingerprint.get("data"), fingerprint.get("data")
        logger.warning("--changed-data: %s was trained on other data (%s) than this (%s)", found.path, before, now)
        return {**fingerprint, "data": before}


@contextlib.contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """A list that collects SIGINT and SIGTERM instead of ending the process; the second signal ends it at once.

    In a thread, which gets no signals, the list stays empty.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def note(number: int, frame: FrameType | None) -> None:
        if received:
            os._exit(128 + number)
        received.append(number)
        message = f"\n{signal.Signals(number).name}: saving and stopping; a second signal stops at once\n"
        os.write(2, message.encode())

    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
