"""Token files: the numbers of a split, memory-mapped, and where its documents begin."""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.errors import InputError

DTYPES = ("|u1", "<u2", "<u4")
"""The types of numbers in files. A manifest names one, and numpy would take some others for pointers."""


class MappedNumbers(np.ndarray[Any, np.dtype[Any]]):
    """The numbers (N,) of a file. Indexing gives plain arrays, and raises InputError once the file has become shorter.

    Without that check, reading what is no longer there ends the process by a signal.
    """

    mapped: mmap.mmap | None = None
    """The file; None in a copy from another process, which needs none."""
    path: Path | None = None

    @classmethod
    def open(cls, path: Path, dtype: str) -> MappedNumbers:
        """The numbers of a file; raises OSError or ValueError where it is not a file of whole numbers."""
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        numbers = np.frombuffer(mapped, np.dtype(dtype)).view(cls)
        numbers.mapped, numbers.path = mapped, path
        return numbers

    def __array_finalize__(self, source: Any) -> None:
        if isinstance(source, MappedNumbers):
            self.mapped, self.path = source.mapped, source.path

    def __getitem__(self, index: Any) -> Any:
        if self.mapped is not None and self.mapped.size() < len(self.mapped):
            raise InputError(f"{self.path}: became shorter while it was in use; the next start prepares it anew")
        return self.view(np.ndarray)[index]


def open_numbers(
    folder: Path, name: str, entry: Mapping[str, Any], levels: int
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """The numbers (N,) below `levels` of NAME.bin, and the first of each document (documents,).

    `entry` is what the manifest says of them: dtype, sha256 and starts. Raises OSError, ValueError or one of their
    kind if that is not so.
    """
    path = folder / f"{name}.bin"
    if entry["dtype"] not in DTYPES:
        raise ValueError(f"{path.name} is said to be of the type {entry['dtype']!r}, expected {', '.join(DTYPES)}")
    if not path.is_file():
        raise ValueError(f"{path.name} is not a regular file")
    if file_sha256(path) != entry["sha256"]:
        raise ValueError(f"{path.name} is not what its manifest says")
    numbers = MappedNumbers.open(path, entry["dtype"])
    if int(numbers.max()) >= levels:
        raise ValueError(f"{path.name} has numbers that are not below {levels}")
    starts = np.array(entry["starts"], dtype=np.int64)
    if starts.ndim != 1 or starts[0] != 0 or starts[-1] >= len(numbers) or (np.diff(starts) <= 0).any():
        raise ValueError(f"{path.name}: its documents do not begin where its manifest says")
    return numbers, starts


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
