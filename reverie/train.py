"""The training loop: update, evaluate, log, save checkpoints, and stop cleanly on a signal."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from reverie import checkpoint
from reverie.checkpoint import Checkpoint
from reverie.fingerprint import as_json, differences
from reverie.manifest import CheckpointError, IncompatibleError, Score
from reverie.metrics import MetricWriter, Window
from reverie.path_interface import SamplingPlan
from reverie.paths import Experiment
from reverie.run_folder import CHECKPOINTS, RunFolder
from training.config import BaseTrainConfig
from training.held_out import HeldOut, Stopped
from training.progress import ProgressLine
from training.stop_signals import collect_stop_signals
from training.trainer import Trainer

HEADLINES = {"episode/return": "return", "loss/next_token": "loss"}
"""The metrics that the progress line shows, by the word it shows them with."""
RATE = "throughput/steps_per_second"
CHANGES = (("--changed-data", "data"), ("--changed-data", "task"), ("--changed-env", "env"))
"""For each flag of a resume, a section of the fingerprint in which it accepts other values than the checkpoint's."""

logger = logging.getLogger(__name__)


def run(
    config: Experiment,
    trainer: Trainer,
    folder: RunFolder,
    accepted: Collection[str] = (),
    sampling: SamplingPlan | None = None,
) -> int:
    """Train until `trainer.total_steps`, in a run folder that this process has locked.

    `accepted` are the flags of CHANGES that were given: what they name may differ from the checkpoint to resume from.
    Nothing in the folder changes before the checkpoint is loaded, or where nothing is left to train.

    Returns the exit code: 0, 1 if the last checkpoint could not be saved, or 128 plus the number of the
    signal that stopped the run. Raises CheckpointError if the run is to be resumed and no checkpoint can be used,
    LostRunError if the folder is deleted or moved meanwhile.
    """
    with collect_stop_signals() as signals:
        saver = _Saver(folder, trainer, Window(), config.train.keep_checkpoints)
        changed = folder.resume and saver.restore(accepted)
        if folder.resume and trainer.step_count >= trainer.total_steps and not saver.is_unfinished:
            done = f"step {trainer.step_count:,} of {trainer.total_steps:,}"
            print(f"nothing is left to train: {folder.path} is at {done}", file=sys.stderr)
            return 0
        folder.begin(config)
        checkpoint.remove_stale(saver.root)
        if changed:
            saver.save()  # so that the newest checkpoint and the configuration in the folder agree
        # The row of an unfinished window is written again when that is full.
        first_step = trainer.step_count + (1 if saver.window.is_empty else 0) if folder.resume else None
        writer = MetricWriter(folder.path, first_step)
        progress = ProgressLine(trainer.total_steps, trainer.step_count)
        try:
            _loop(config.train, trainer, saver, writer, progress, signals, sampling)
            saved = saver.is_current or saver.save()
        finally:
            if not saver.window.is_empty and folder.lock.is_held():
                _write_row(writer, trainer.step_count, saver.window.row(), progress)
            progress.close()
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
    done = trainer.update_count - saver.is_unfinished
    next_log, next_save = (_next_multiple(done, every) for every in (config.log_interval, config.checkpoint_interval))
    headline: dict[str, float] = {}

    def check() -> None:
        if signals:
            raise Stopped

    while saver.is_unfinished or (trainer.step_count < trainer.total_steps and not signals):
        metrics = {} if saver.is_unfinished else trainer.update()
        saver.folder.require_held()
        try:
            found = _held_out_metrics(trainer, check)
            if sampling is not None and trainer.update_count % sampling.interval == 0:
                samples = sampling.sample(check)
                found |= samples.metrics
                writer.write_samples(trainer.step_count, samples)
        except Stopped:
            saver.note(metrics, is_unfinished=True)
            break
        metrics |= found
        saver.note(metrics)
        headline |= {word: metrics[tag] for tag, word in HEADLINES.items() if tag in metrics}
        progress.update(trainer.step_count, headline)
        if trainer.update_count >= next_log:
            _write_row(writer, trainer.step_count, saver.window.row(), progress)
            next_log = _next_multiple(trainer.update_count, config.log_interval)
        if trainer.update_count >= next_save or saver.is_best:
            saved = saver.save()
            next_save = _next_multiple(trainer.update_count, config.checkpoint_interval) if saved else next_log
    progress.update(trainer.step_count, headline, last=True)


def _held_out_metrics(trainer: Trainer, check: Callable[[], None]) -> dict[str, float]:
    """The metrics of a trainer's evaluation, where one is due; raises Stopped as `check` does."""
    held_out = trainer.held_out
    if held_out is None or trainer.update_count % held_out.interval:
        return {}
    return held_out.measure(check)


def _score(held_out: HeldOut | None, metrics: Mapping[str, float]) -> Score | None:
    """The score among the metrics of one update; None where they have none that is finite."""
    if held_out is None or not math.isfinite(value := float(metrics.get(held_out.score, math.nan))):
        return None
    return Score(held_out.score, value, held_out.higher_is_better, as_json(held_out.basis))


def _write_row(writer: MetricWriter, step: int, row: dict[str, float], progress: ProgressLine) -> None:
    """Write a row of metrics with the rate, once there is one."""
    rate = progress.rate
    writer.write(step, row if rate is None else {**row, RATE: rate})


def _next_multiple(count: int, interval: int) -> int:
    return (count // interval + 1) * interval


@dataclass
class _Saver:
    """Saves and restores a trainer, with the metrics that are not logged yet."""

    folder: RunFolder
    trainer: Trainer
    window: Window
    keep: int
    saved_update: int = -1
    is_unfinished: bool = False
    """Whether a signal came while the latest update was evaluated: that is done anew at a resume."""
    score: Score | None = None
    """That of the trainer's weights now, where they were evaluated."""
    best_score: Score | None = None
    """That of the best checkpoint."""

    @property
    def root(self) -> Path:
        """The folder of the checkpoints."""
        return self.folder.path / CHECKPOINTS

    @property
    def is_current(self) -> bool:
        """Whether the trainer's state is the last one saved."""
        return self.saved_update == self.trainer.update_count

    @property
    def is_best(self) -> bool:
        """Whether the trainer's weights are better than those of every checkpoint."""
        return self.score is not None and self.score.beats(self.best_score)

    def note(self, metrics: Mapping[str, float], is_unfinished: bool = False) -> None:
        """Take in the metrics of the latest update, whose evaluation may be unfinished."""
        self.window.add(metrics)
        if self.is_unfinished and not is_unfinished:
            self.saved_update = -1  # what was saved lacks these metrics
        self.is_unfinished = is_unfinished
        self.score = _score(self.trainer.held_out, metrics)

    def save(self) -> bool:
        """Save a checkpoint; a failure is reported and leaves the older ones as they are.

        So does a streak of skipped updates, whose weights may be past saving. Raises LostRunError.
        """
        self.folder.require_held()
        trainer = self.trainer
        step = f"the checkpoint of step {trainer.step_count} is not saved"
        if trainer.skipped_in_a_row:
            logger.warning("%s: the last %d updates were not finite", step, trainer.skipped_in_a_row)
            return False
        state = {"trainer": trainer.state(), "window": self.window.state(), "is_unfinished": self.is_unfinished}
        content = trainer.weights(), state, trainer.fingerprint()
        try:
            checkpoint.save(self.root, trainer.step_count, *content, self.keep, self.score)
        except CheckpointError as error:
            logger.error("%s: %s", step, error)
            return False
        self.saved_update = trainer.update_count
        if self.is_best:
            self.best_score = self.score
        return True

    def restore(self, accepted: Collection[str]) -> bool:
        """Load the newest checkpoint that is whole and print its path; log where there is none yet.

        Returns whether the experiment differs from the checkpoint's in what the flags in `accepted` name.
        """
        ours = self.trainer.fingerprint()
        wanted = self._accept_changes(ours, accepted)
        warnings: list[str] = []

        def adopt(found: Checkpoint) -> None:
            self.window = Window(**found.state["window"])
            self.is_unfinished, self.score = found.state.get("is_unfinished", False) is True, found.score
            warnings[:] = self.trainer.load(found.weights, found.state["trainer"])
            if self.trainer.step_count != found.step:
                raise ValueError(f"its state is of step {self.trainer.step_count}, its manifest of step {found.step}")

        try:
            found, skipped = checkpoint.newest(self.root, wanted, adopt)
        except IncompatibleError as error:
            flags = [{flag for flag, section in CHANGES if _is_of(line, section)} for line in error.differences]
            if not flags or not all(flags):
                raise
            hint = f"{' '.join(sorted(set().union(*flags)))} continues nevertheless"
            raise IncompatibleError(f"{error}\n{hint}", error.differences) from error
        for entry in skipped:
            logger.warning("skipped a checkpoint: %s", entry.reason)
        if found is None:
            logger.warning("%s: holds no checkpoint yet; the run starts at step 0", self.root)
            return False
        for warning in warnings:
            logger.warning("%s", warning)
        self.saved_update = self.trainer.update_count
        best = checkpoint.best_intact(self.root)
        self.best_score = None if best is None else best[1]
        threads = torch.get_num_threads()
        if found.num_threads != threads:
            logger.warning(
                "the checkpoint was written with %d torch threads, this run has %d: the resume is not exact",
                found.num_threads,
                threads,
            )
        print(f"resumed from {found.path} at step {self.trainer.step_count:,}", file=sys.stderr, flush=True)
        return bool(differences(wanted, ours))

    def _accept_changes(self, fingerprint: dict[str, Any], accepted: Collection[str]) -> dict[str, Any]:
        """The fingerprint with what may differ taken from the newest checkpoint's; differences are logged."""
        saved = checkpoint.newest_fingerprint(self.root)
        sections = [section for flag, section in CHANGES if flag in accepted]
        if saved is None or not sections:
            return fingerprint
        for line in differences(saved, fingerprint):
            if any(_is_of(line, section) for section in sections):
                logger.warning("%s", line)
        return fingerprint | {section: saved[section] for section in sections if section in saved}


def _is_of(difference: str, section: str) -> bool:
    return difference.startswith((f"{section}.", f"{section}:"))
