"""Files of a folder that may come from anywhere: no write leaves it through a link, no read waits for a pipe."""

from __future__ import annotations

import os
import re
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from training import files

ROOT = Path(__file__).parents[2]
PACKAGES = ("memory_cores", "training", "agents", "envs", "lm", "audio", "reverie")
WRITES = re.compile(
    r"""\.write_(text|bytes)\(|open\([^)]*["'][wax]b?\+?["']|savefig\((?!picture)|SummaryWriter|np\.save|\.tofile\("""
    r"|imwrite\((?!\"<bytes>\")|soundfile\.write\((?!encoded)|O_WRONLY|O_CREAT|O_RDWR"
)


def replace(path: Path, content: bytes) -> None:
    with files.replace_file(path) as file:
        file.write(content)


@pytest.fixture
def precious(tmp_path: Path) -> Iterator[Path]:
    """A file that stays as it is."""
    path = tmp_path / "precious"
    path.write_text("keep")
    yield path
    assert path.read_text() == "keep"


@pytest.mark.parametrize("write", [files.write_file, files.append])
def test_a_link_is_refused_also_one_that_leads_nowhere(
    write: Callable[[Path, bytes], None], precious: Path, tmp_path: Path
) -> None:
    for name, target in (("link", precious), ("dangling", tmp_path / "new")):
        (tmp_path / name).symlink_to(target)
        with pytest.raises(OSError, match="link"):
            write(tmp_path / name, b"x")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("write", [files.write_file, replace])
def test_a_second_name_of_a_file_is_replaced(
    write: Callable[[Path, bytes], None], precious: Path, tmp_path: Path
) -> None:
    os.link(precious, tmp_path / "name")
    write(tmp_path / "name", b"x")
    assert (tmp_path / "name").read_bytes() == b"x"


def test_a_link_that_lies_where_a_file_is_written_first_is_replaced(precious: Path, tmp_path: Path) -> None:
    (tmp_path / ".name.tmp").symlink_to(precious)
    replace(tmp_path / "name", b"x")
    assert (tmp_path / "name").read_bytes() == b"x"
    assert not os.path.lexists(tmp_path / ".name.tmp")


def test_a_failing_replacement_leaves_the_file_as_it_was(precious: Path) -> None:
    with pytest.raises(TypeError), files.replace_file(precious) as file:
        file.writelines([b"x", "not bytes"])  # type: ignore[list-item]


def test_what_is_no_file_is_told_at_once(tmp_path: Path) -> None:
    pipe, folder = tmp_path / "pipe", tmp_path / "folder"
    os.mkfifo(pipe)
    folder.mkdir()
    for path, kind in ((pipe, "a pipe"), (folder, "a folder"), (Path("/dev/zero"), "a device")):
        with pytest.raises(OSError, match=f"is not a regular file but {kind}"):
            files.open_regular(path)
        with pytest.raises(OSError, match=f"is not a regular file but {kind}"):
            files.write_file(path, b"")
    with pytest.raises(OSError, match="device or address"):
        files.append(pipe, b"x")


def test_a_folder_is_made_but_not_behind_a_link(tmp_path: Path) -> None:
    files.make_folder(tmp_path / "new")
    files.make_folder(tmp_path / "new")
    (tmp_path / "link").symlink_to(tmp_path / "new")
    with pytest.raises(OSError, match="is not a folder but a link"):
        files.make_folder(tmp_path / "link")


def test_what_does_not_fit_is_taken_back(tmp_path: Path) -> None:
    path, before = tmp_path / "log", resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
        files.append(path, b"12345678")
        with pytest.raises(OSError, match="large"):
            files.append(path, b"12345678")
        assert path.read_bytes() == b"12345678"
        files.append(path, b"9")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == b"123456789"


@pytest.mark.parametrize("package", PACKAGES)
def test_everything_that_is_written_is_opened_in_one_place(package: str) -> None:
    elsewhere = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in sorted((ROOT / package).rglob("*.py"))
        if path.relative_to(ROOT).as_posix() not in ("training/files.py", "reverie/run_lock.py")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if WRITES.search(line) and "os.devnull" not in line
    ]
    assert elsewhere == []
