"""What the processes of this machine are: their parents, their names, the ports they listen on."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path


def parent(pid: int) -> int:
    """The parent of a process, 0 where it has gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def state(pid: int) -> str:
    """R, S, T (stopped), Z (zombie) ...; empty where it has gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def descendants(of: int) -> list[int]:
    """Every living process below one."""
    children: dict[int, list[int]] = {}
    for pid in (int(entry) for entry in os.listdir("/proc") if entry.isdigit()):
        children.setdefault(parent(pid), []).append(pid)
    found, queue = [], [of]
    while queue:
        below = children.get(queue.pop(), [])
        found += below
        queue += below
    return [pid for pid in found if state(pid) not in ("", "Z")]


def command_line(pid: int) -> bytes:
    """The arguments of a process, each ended by a zero byte."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def actor_pids(of: int | None = None) -> list[int]:
    """The actor processes below a process (this one if None)."""
    return [pid for pid in descendants(of or os.getpid()) if command_line(pid).startswith(b"ray::RemoteActor")]


def listening(pids: list[int]) -> set[str]:
    """The addresses, in the kernel's hexadecimal form, on which any of the processes accepts TCP connections."""
    inodes = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            for entry in os.scandir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    target = os.readlink(entry.path)
                    if target.startswith("socket:"):
                        inodes.add(target[8:-1])
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                found.add(fields[1].split(":")[0])
    return found


LOOPBACK = {"0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F"}
"""127.0.0.1, ::1 and ::ffff:127.0.0.1."""


def wait_until(holds: Callable[[], bool], seconds: float) -> bool:
    """Whether it comes to hold within the time."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
