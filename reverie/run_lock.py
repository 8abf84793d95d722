"""The lock of a run folder: one process uses it at a time."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from training.errors import UserError
from training.files import require_regular

LOCK = "lock"
_OPEN = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
_ATTEMPTS = 100

logger = logging.getLogger(__name__)


class RunFolderError(UserError):
    """A run folder that cannot be used; the message names it and says why."""


@dataclass
class RunLock:
    """A locked file, which says who holds it."""

    path: Path
    descriptor: int
    before: bytes | None
    """What the file held; None where there was no file."""
    used: bool = False
    """Whether the folder was changed under the lock; if not, the file is put back as it was found."""

    def is_held(self) -> bool:
        """Whether the file at the path is the locked one: not where the folder was deleted, moved or replaced."""
        try:
            there, here = os.stat(self.path, follow_symlinks=False), os.fstat(self.descriptor)
        except OSError:
            return False
        return os.path.samestat(there, here)

    def write(self, content: bytes) -> None:
        """Replace the content of the file."""
        os.ftruncate(self.descriptor, 0)
        os.pwrite(self.descriptor, content, 0)


@contextlib.contextmanager
def hold_lock(folder: Path) -> Iterator[RunLock]:
    """Hold the lock of a folder; the kernel releases it when the process ends, however it ends.

    Raises RunFolderError if another process holds it, OSError if the file cannot be made.
    """
    lock = _acquire(folder)
    try:
        if lock.before:
            logger.warning("%s: took over the lock of %s, which did not end cleanly", folder, _holder(lock.before))
        lock.write(f"pid {os.getpid()} on host {socket.gethostname()}\n".encode())
        yield lock
    finally:
        if lock.used:
            lock.write(b"")
        elif lock.before is not None:
            lock.write(lock.before)
        elif lock.is_held():
            os.unlink(lock.path)
        os.close(lock.descriptor)


def _acquire(folder: Path) -> RunLock:
    path = folder / LOCK
    try:
        require_regular(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise RunFolderError(f"{path}: {error.strerror}") from error
    for _ in range(_ATTEMPTS):
        try:
            descriptor, exists = os.open(path, _OPEN), True
        except FileNotFoundError:
            descriptor, exists = os.open(path, _OPEN | os.O_CREAT, 0o644), False
        lock = RunLock(path, descriptor, os.pread(descriptor, 1000, 0) if exists else None)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise RunFolderError(f"{folder}: is in use by {_holder(lock.before)}") from error
        if lock.is_held():
            return lock
        os.close(descriptor)  # its holder has deleted it meanwhile
    raise RunFolderError(f"{path}: is deleted as often as it is made")


def _holder(content: bytes | None) -> str:
    return (content or b"").decode(errors="replace").strip() or "another process"
