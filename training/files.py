"""Opening files in folders that may come from anywhere: nothing is written through a link, nothing read from a pipe.

Every file that the program writes is opened here. A file that is there is replaced, never written into, so that a link,
or a second name of the same file, leads no write elsewhere.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC


class WrongKindError(OSError):
    """A link, a folder, a pipe, a socket or a device in the place of a file, or a file in that of a folder."""


def open_regular(path: Path, follow_links: bool = True) -> io.BufferedReader:
    """A regular file, to read; opening it never waits, as that of a pipe without a writer would.

    Raises WrongKindError for what is not a regular file, OSError without `follow_links` for a link.
    """
    return os.fdopen(_regular(path, os.open(path, _READ | (0 if follow_links else os.O_NOFOLLOW))), "rb")


def create_file(path: Path) -> io.BufferedWriter:
    """A new file, to write, in the place of a regular file that is there.

    Raises OSError where a link, a folder or a device is in its place.
    """
    with contextlib.suppress(FileNotFoundError):
        require_regular(path)
        os.unlink(path)
    return os.fdopen(os.open(path, _NEW, 0o666), "wb")


def write_file(path: Path, content: bytes) -> None:
    """Write a whole file; raises as `create_file` does."""
    with create_file(path) as file:
        file.write(content)


@contextlib.contextmanager
def replace_file(path: Path) -> Iterator[io.BufferedWriter]:
    """A file to write, on the disk in the place of `path` at the end; after an error that is as it was.

    It is written beside it as `.NAME.tmp`, in the place of what an ended process may have left there.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        with create_file(temporary) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def append(path: Path, content: bytes) -> None:
    """Append to a regular file, which is made where it is missing: all of the content, or nothing of it.

    Raises OSError where it cannot be written whole, for a link, and for what is not a regular file.
    """
    descriptor = _regular(path, os.open(path, _APPEND, 0o666))
    end = os.fstat(descriptor).st_size
    try:
        while content:
            content = content[os.write(descriptor, content) :]
    except OSError:
        os.ftruncate(descriptor, end)
        raise
    finally:
        os.close(descriptor)


def make_folder(path: Path) -> None:
    """Make a folder in one that is there, unless it exists; raises OSError for a link in its place."""
    try:
        path.mkdir()
    except FileExistsError:
        require_folder(path)


def require_regular(path: Path) -> None:
    """Raise OSError for what is not a regular file, such as a link."""
    _require(path, os.lstat(path), stat.S_ISREG, "a regular file")


def require_folder(path: Path) -> None:
    """Raise OSError for what is not a folder, such as a link."""
    _require(path, os.lstat(path), stat.S_ISDIR, "a folder")


def _regular(path: Path, descriptor: int) -> int:
    """The descriptor, closed again with OSError where it is not one of a regular file."""
    try:
        _require(path, os.fstat(descriptor), stat.S_ISREG, "a regular file")
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _require(path: Path, status: os.stat_result, is_expected: Callable[[int], bool], expected: str) -> None:
    if not is_expected(status.st_mode):
        kinds = {stat.S_IFLNK: "a link", stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
        kind = kinds.get(stat.S_IFMT(status.st_mode)) or ("a file" if stat.S_ISREG(status.st_mode) else "a device")
        raise WrongKindError(errno.EINVAL, f"is not {expected} but {kind}", str(path))
