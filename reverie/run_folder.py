"""The folder of one run: inside its root, locked by one process, and overwritten only on request."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reverie import checkpoint, yaml_loader
from reverie.checkpoint import Checkpoint
from reverie.experiment import RUN_NAME, dump
from reverie.metrics_file import read_rows
from reverie.paths import Experiment
from reverie.run_lock import RunFolderError, RunLock, hold_lock
from training.errors import TrainingError
from training.files import replace_file, require_folder, require_regular

CONFIG, METRICS, EVENTS, CHECKPOINTS, SAMPLES = (
    "config.yaml",
    "metrics.jsonl",
    "tensorboard",
    "checkpoints",
    "samples",
)
_CONTENTS = (CONFIG, METRICS, EVENTS, CHECKPOINTS, SAMPLES)

logger = logging.getLogger(__name__)


class LostRunError(TrainingError):
    """A run folder that is no longer where it was, or no longer this process's."""


@dataclass
class RunFolder:
    """A run folder that this process has locked; nothing in it changes before `begin`."""

    path: Path
    lock: RunLock
    resume: bool = False
    """Whether the run in it is to be continued."""
    overwrite: bool = False
    """Whether the run in it is to be deleted."""

    def begin(self, config: Experiment) -> None:
        """Write the configuration, after the run before is deleted where that was asked for.

        Called once everything that can be refused has been checked. Raises RunFolderError.
        """
        self.lock.used = True
        try:
            if self.overwrite:
                _remove_run(self.path)
            if self.resume:
                _warn_of_changes(self.path, config)
            _write_config(self.path, config)
        except OSError as error:
            raise RunFolderError(f"{self.path}: {error.strerror or error}") from error

    def require_held(self) -> None:
        """Raise LostRunError if the folder was deleted, moved or replaced since it was locked."""
        if not self.lock.is_held():
            raise LostRunError(
                f"{self.path}: was deleted or moved while the run trained; nothing is written there any more. "
                "Where it was moved, --resume continues it from its last checkpoint"
            )


@contextlib.contextmanager
def open_run(config: Experiment, *, resume: bool = False, overwrite: bool = False) -> Iterator[RunFolder]:
    """The locked folder `run.root/run.name`, made where it is missing, and left as it was found unless the run begins.

    Raises RunFolderError if another process runs in it, if it holds a run and neither `resume` nor
    `overwrite` is true, if there is nothing to resume, or if it is outside its root.
    """
    path = _place(Path(config.run.root), config.run.name)
    missing = [folder for folder in (path, *path.parents) if not os.path.lexists(folder)]
    folder: RunFolder | None = None
    try:
        with contextlib.ExitStack() as stack:
            try:
                path.mkdir(parents=True, exist_ok=True)
                folder = RunFolder(path, stack.enter_context(hold_lock(path)), resume, overwrite)
                _check_contents(path, resume, overwrite)
            except OSError as error:
                raise RunFolderError(f"{path}: {error.strerror or error}") from error
            yield folder
    finally:
        if folder is None or not folder.lock.used:
            with contextlib.suppress(OSError):
                for made in missing:
                    made.rmdir()


def newest_checkpoint(run: Path, adopt: Callable[[Checkpoint], object] | None = None) -> Checkpoint:
    """The newest intact checkpoint of a run; newer ones that are damaged are logged.

    `adopt` is as in `checkpoint.newest`. Raises RunFolderError if the run has no checkpoint, CheckpointError if all of
    them are damaged.
    """
    found, skipped = checkpoint.newest(run / CHECKPOINTS, adopt=adopt)
    for entry in skipped:
        logger.warning("skipped a checkpoint: %s", entry.reason)
    if found is None:
        raise RunFolderError(f"{run}: holds no checkpoint yet")
    return found


def _place(root: Path, name: str) -> Path:
    if not RUN_NAME.fullmatch(name):
        raise RunFolderError(f"{name!r} is not a run name")
    folder = root.resolve() / name
    if folder.is_symlink() or folder.resolve() != folder:
        raise RunFolderError(f"{folder}: is a link; a run folder lies in its root itself")
    return folder


def _check_contents(path: Path, resume: bool, overwrite: bool) -> None:
    """Raise RunFolderError if what the folder holds is not what was asked for."""
    found = [name for name in _CONTENTS if os.path.lexists(path / name)]
    # A run that failed before its first update leaves its configuration alone.
    if found not in ([], [CONFIG]) and not (resume or overwrite):
        raise RunFolderError(f"{path}: already holds a run; --resume continues it, --overwrite replaces it")
    if resume and not found:
        raise RunFolderError(f"{path}: holds no run to resume")
    for name in found:
        if (path / name).is_symlink():
            raise RunFolderError(f"{path / name}: is a link; a run keeps its files in its own folder")
        try:
            require_regular(path / name) if name in (CONFIG, METRICS) else require_folder(path / name)
        except OSError as error:
            raise RunFolderError(f"{path / name}: {error.strerror}") from error
    if resume and not checkpoint.folders(path / CHECKPOINTS) and METRICS in found:
        rows = read_rows(path / METRICS)
        if rows:
            raise RunFolderError(
                f"{path}: has metrics up to step {rows[-1]['step']:,} and no checkpoint to continue from; "
                "--overwrite starts the run anew"
            )


def _remove_run(folder: Path) -> None:
    """Delete what a run makes, and nothing else."""
    for name in _CONTENTS:
        if (folder / name).is_dir():
            shutil.rmtree(folder / name)
        else:
            (folder / name).unlink(missing_ok=True)


def _write_config(folder: Path, config: Experiment) -> None:
    with replace_file(folder / CONFIG) as file:
        file.write(dump(config).encode())


def _warn_of_changes(folder: Path, config: Experiment) -> None:
    try:
        before = yaml_loader.read(folder / CONFIG).value
    except yaml_loader.YamlError as error:
        logger.warning("%s: %s", folder / CONFIG, error)
        return
    old, new = flatten(before), flatten(yaml_loader.parse(dump(config)).value)
    for key in sorted({*old, *new}):
        if old.get(key) != new.get(key) and not key.startswith("run."):
            logger.warning("%s changes from %r to %r in this resume", key, old.get(key), new.get(key))


def flatten(data: Any, path: str = "") -> dict[str, Any]:
    """The leaves of nested mappings by dotted path."""
    if not isinstance(data, Mapping) or not data:
        return {path: data}
    leaves: dict[str, Any] = {}
    for key, value in data.items():
        leaves |= flatten(value, f"{path}.{key}" if path else key)
    return leaves
