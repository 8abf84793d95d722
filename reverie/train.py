"""The training loop: update, log, checkpoint, and stop cleanly when asked to."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import torch

from agents.config import ExperimentConfig
from reverie import checkpoint
from reverie.checkpoint import Checkpoint, CheckpointError
from reverie.metrics import MetricWriter, Window
from reverie.progress import ProgressLine
from reverie.run_folder import CHECKPOINTS
from reverie.trainer import Trainer

RETURN = "episode/return"
RATE = "throughput/steps_per_second"

logger = logging.getLogger(__name__)


def run(config: ExperimentConfig, trainer: Trainer, folder: Path, resume: bool) -> int:
    """Train until `trainer.total_steps`, in a run folder that this process has locked.

    Returns the exit code: 0, 1 if the last checkpoint could not be saved, or 128 plus the number of the signal that
    asked to stop. Raises CheckpointError if `resume` finds checkpoints and none can be used.
    """
    root = folder / CHECKPOINTS
    found = _restore(root, trainer) if resume else None
    window = Window(**found.state["window"]) if found else Window()
    writer = MetricWriter(folder, resume_step=trainer.step_count if resume else None)
    progress = ProgressLine(trainer.total_steps, trainer.step_count)
    try:
        with _stop_signals() as signals:
            saved = _loop(config, trainer, root, window, writer, progress, signals)
    finally:
        progress.close()
        writer.close()
    if not saved:
        return 1
    return 128 + signals[0] if signals else 0


def _loop(
    config: ExperimentConfig,
    trainer: Trainer,
    root: Path,
    window: Window,
    writer: MetricWriter,
    progress: ProgressLine,
    signals: list[int],
) -> bool:
    """Returns whether the last state is saved."""
    log_every, save_every = config.train.log_interval, config.train.checkpoint_interval
    keep = config.train.keep_checkpoints
    next_log = _next_multiple(trainer.update_count, log_every)
    next_save = _next_multiple(trainer.update_count, save_every)
    mean_return: float | None = None
    saved_update = -1
    while trainer.step_count < trainer.total_steps and not signals:
        metrics = trainer.update()
        window.add(metrics)
        mean_return = metrics.get(RETURN, mean_return)
        if trainer.update_count >= next_log:
            row = window.row()
            writer.write(trainer.step_count, {**row, RATE: progress.rate(trainer.step_count)})
            next_log = _next_multiple(trainer.update_count, log_every)
        if trainer.update_count >= next_save:
            if _save(root, trainer, window, keep):
                saved_update = trainer.update_count
                next_save = _next_multiple(trainer.update_count, save_every)
            else:
                next_save = next_log
        progress.update(trainer.step_count, mean_return)
    progress.update(trainer.step_count, mean_return, last=True)
    return saved_update == trainer.update_count or _save(root, trainer, window, keep)


def _next_multiple(count: int, interval: int) -> int:
    return (count // interval + 1) * interval


def _restore(root: Path, trainer: Trainer) -> Checkpoint | None:
    """Load the newest checkpoint that verifies and say which; None where the run was stopped before its first."""
    found, skipped = checkpoint.newest(root, trainer.fingerprint())
    for entry in skipped:
        logger.warning("skipped a checkpoint: %s", entry.reason)
    if found is None:
        logger.warning("%s: holds no checkpoint yet; the run starts at step 0", root)
        return None
    if set(found.state) != {"trainer", "window"}:
        raise CheckpointError(f"{found.path}: its state is not that of a training run")
    for warning in trainer.load(found.weights, found.state["trainer"]):
        logger.warning("%s", warning)
    if found.num_threads != torch.get_num_threads():
        logger.warning(
            "the checkpoint was written with %d torch threads and this run has %d: the resume is not exact",
            found.num_threads,
            torch.get_num_threads(),
        )
    print(f"resumed from {found.path} at step {trainer.step_count:,}", file=sys.stderr)
    return found


def _save(root: Path, trainer: Trainer, window: Window, keep: int) -> bool:
    """Save a checkpoint; a failure is reported and leaves the older ones as they are."""
    state = {"trainer": trainer.state(), "window": window.state()}
    try:
        checkpoint.save(root, trainer.step_count, trainer.weights(), state, trainer.fingerprint(), keep)
    except CheckpointError as error:
        logger.error("the checkpoint of step %d is not saved: %s", trainer.step_count, error)
        return False
    return True


@contextlib.contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM in a list instead of dying of them; the second one ends the process at once."""
    received: list[int] = []

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
