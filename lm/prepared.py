"""Folders of the cache that are made once, completely or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from training.errors import InputError

MANIFEST = "manifest.json"

Contents = TypeVar("Contents")

logger = logging.getLogger(__name__)


def cache_root(cache: str | None) -> Path:
    """Where prepared corpora lie: the folder of a configuration, or reverie/corpora in the user's cache folder."""
    if cache is not None:
        return Path(cache)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "reverie" / "corpora"


def open_or_make(folder: Path, read: Callable[[Path], Contents], make: Callable[[Path], None]) -> Contents:
    """The contents of a folder by `read`, after `make` has filled it where it is missing or damaged.

    `read` raises OSError, ValueError, LookupError, TypeError or AttributeError on a damaged folder, which is deleted.
    """
    if folder.exists():
        try:
            return read(folder)
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            logger.warning("%s: is damaged and prepared anew: %s", folder, error)
            shutil.rmtree(folder)
    make(folder)
    try:
        return read(folder)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(f"{folder}: what was just written there cannot be read back: {error}") from error


@contextlib.contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder to fill, renamed to `folder` at the end, unless another process has made that first."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".tmp-", ignore_cleanup_errors=True) as name:
        temporary = Path(name) / folder.name
        temporary.mkdir()
        yield temporary
        try:
            os.rename(temporary, folder)
        except OSError:
            if not folder.exists():
                raise


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a folder; raises OSError or ValueError where there is none."""
    manifest = json.loads((folder / MANIFEST).read_bytes())
    if not isinstance(manifest, dict):
        raise ValueError("its manifest is not a mapping")
    return manifest


def open_numbers(path: Path, dtype: str, sha256: str) -> NDArray[Any]:
    """The memory-mapped numbers of a file; raises ValueError if they are not those of the hash."""
    if file_sha256(path) != sha256:
        raise ValueError(f"{path.name} is not what its manifest says")
    numbers: NDArray[Any] = np.memmap(path, np.dtype(dtype), "r")
    return numbers


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
