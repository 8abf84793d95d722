"""Folders of the cache that are made once, completely or not at all, and the numbers in them."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from lm.documents import SPLITS
from training.errors import InputError, UserError

MANIFEST = "manifest.json"
PREFIX = ".reverie-preparing-"
"""What the names of folders begin with that are still being filled."""
DAMAGE = (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)
"""What reading a folder raises whose files are not as they were written."""
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)

Contents = TypeVar("Contents")

logger = logging.getLogger(__name__)


def cache_root(cache: str | None) -> Path:
    """Where prepared corpora lie: the folder of a configuration, or reverie/corpora in the user's cache folder."""
    if cache is not None:
        return Path(cache)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "reverie" / "corpora"


def open_or_make(folder: Path, read: Callable[[Path], Contents], make: Callable[[Path], None]) -> Contents:
    """The contents of a folder by `read`, after `make` has filled it where it is missing or damaged.

    `read` raises one of DAMAGE on a damaged folder, which is deleted. What preparations that were killed left in the
    cache is deleted too.
    """
    _sweep(folder.parent)
    if folder.exists():
        try:
            return read(folder)
        except DAMAGE as error:
            logger.warning("%s: is damaged and prepared anew: %s", folder, error)
            shutil.rmtree(folder)
    make(folder)
    try:
        return read(folder)
    except DAMAGE as error:
        raise InputError(f"{folder}: what was just written there cannot be read back: {error}") from error


@contextlib.contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder to fill, renamed to `folder` at the end, unless another process has made that first.

    Raises UserError where the cache cannot be written.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        place, lock = _locked_folder(folder.parent)
    except OSError as error:
        raise _unwritable(folder.parent, error) from error
    try:
        temporary = place / folder.name
        temporary.mkdir()
        yield temporary
        try:
            os.rename(temporary, folder)
        except OSError:
            if not folder.exists():
                raise
    except OSError as error:
        # Reading the sources fails in here too, which is none of the cache's.
        path = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else None
        if error.errno in UNWRITABLE or (path is not None and path.is_relative_to(place)):
            raise _unwritable(folder.parent, error) from error
        raise
    finally:
        shutil.rmtree(place, ignore_errors=True)
        os.close(lock)


def _unwritable(cache: Path, error: OSError) -> UserError:
    reason = error.strerror or str(error)
    return UserError(
        f"data.cache: {cache.absolute()}: cannot be written: {reason}; data.cache=WHERE prepares the data elsewhere"
    )


def _locked_folder(cache: Path) -> tuple[Path, int]:
    """A new temporary folder, and the descriptor that locks it while this process lives."""
    while True:
        place = Path(tempfile.mkdtemp(dir=cache, prefix=PREFIX))
        lock = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with contextlib.suppress(OSError):  # a file system without locks: nobody can lock it for sweeping either
            fcntl.flock(lock, fcntl.LOCK_EX)
        if place.exists():  # else another process swept it before it was locked
            return place, lock
        os.close(lock)


def _sweep(cache: Path) -> None:
    """Delete the temporary folders in a cache that no process holds."""
    for place in cache.glob(f"{PREFIX}*"):
        try:
            lock = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(place, ignore_errors=True)
            logger.info("%s: deleted; the preparation that made it did not end", place)
        except OSError:  # it is being filled
            pass
        finally:
            os.close(lock)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a folder, `splits` in it among them; raises OSError, ValueError or KeyError where it is none."""
    path = folder / MANIFEST
    if not path.is_file():
        raise ValueError(f"{MANIFEST} is not a regular file")
    manifest = json.loads(path.read_bytes())
    if not isinstance(manifest, dict):
        raise ValueError("its manifest is not a mapping")
    if not {"train", "validation"} <= manifest["splits"].keys() <= set(SPLITS):
        raise ValueError(f"its manifest names other splits than {', '.join(SPLITS)}")
    return manifest
