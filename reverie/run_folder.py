"""The folder of one run: inside its root, locked by one process, and overwritten only on request."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from reverie import checkpoint, yaml_loader
from reverie.checkpoint import Checkpoint
from reverie.experiment import RUN_NAME, dump
from reverie.paths import Experiment
from training.errors import UserError

CONFIG, METRICS, EVENTS, CHECKPOINTS, SAMPLES, LOCK = (
    "config.yaml",
    "metrics.jsonl",
    "tensorboard",
    "checkpoints",
    "samples",
    "lock",
)
_CONTENTS = (CONFIG, METRICS, EVENTS, CHECKPOINTS, SAMPLES)

logger = logging.getLogger(__name__)


class RunFolderError(UserError):
    """A run folder that cannot be used; the message names it and says why."""


@contextlib.contextmanager
def open_run(config: Experiment, *, resume: bool = False, overwrite: bool = False) -> Iterator[Path]:
    """The locked folder `run.root/run.name` with the resolved config.yaml in it.

    Raises RunFolderError if another process runs in it, if it holds a run and neither `resume` nor
    `overwrite` is true, if there is nothing to resume, or if it is outside its root.
    """
    folder = _place(Path(config.run.root), config.run.name)
    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(_lock(folder))
            found = [name for name in _CONTENTS if os.path.lexists(folder / name)]
            # A run that failed before its first update leaves its configuration alone.
            if found not in ([], [CONFIG]) and not (resume or overwrite):
                raise RunFolderError(f"{folder}: already holds a run; --resume continues it, --overwrite replaces it")
            if resume and not found:
                raise RunFolderError(f"{folder}: holds no run to resume")
            _refuse_links(folder)
            if overwrite:
                _remove_run(folder)
            if resume:
                _warn_of_changes(folder, config)
            _write_config(folder, config)
        except OSError as error:
            raise RunFolderError(f"{folder}: {error.strerror or error}") from error
        yield folder


def newest_checkpoint(run: Path) -> Checkpoint:
    """The newest intact checkpoint of a run; newer ones that are damaged are logged.

    Raises RunFolderError if the run has no checkpoint, CheckpointError if all of them are damaged.
    """
    found, skipped = checkpoint.newest(run / CHECKPOINTS)
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


def _refuse_links(folder: Path) -> None:
    for name in _CONTENTS:
        if (folder / name).is_symlink():
            raise RunFolderError(f"{folder / name}: is a link; a run keeps its files in its own folder")


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; the kernel releases it when the process ends, however it ends."""
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        holder = os.pread(descriptor, 1000, 0).decode(errors="replace").strip()
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunFolderError(f"{folder}: is in use by {holder or 'another process'}") from error
        if holder:
            logger.warning("%s: took over the lock of %s, which did not end cleanly", folder, holder)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"pid {os.getpid()} on host {socket.gethostname()}\n".encode(), 0)
        try:
            yield
        finally:
            os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def _remove_run(folder: Path) -> None:
    """Delete what a run makes, and nothing else."""
    for name in _CONTENTS:
        if (folder / name).is_dir():
            shutil.rmtree(folder / name)
        else:
            (folder / name).unlink(missing_ok=True)


def _write_config(folder: Path, config: Experiment) -> None:
    temporary = folder / f".{CONFIG}.tmp"
    with temporary.open("w", encoding="utf-8") as file:
        file.write(dump(config))
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, folder / CONFIG)


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
