"""A process beside the learner that ends what outlives it.

Ray's processes notice the death of their driver, but two helpers of its raylet then wait for a server that is gone too,
and an environment's child may hold on to its actor's sockets. The reaper remembers every process below the learner;
some time after the learner's end, whatever end that was, it kills those that are left.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Collection
from pathlib import Path

INTERVAL = 0.5
"""Seconds between two looks."""
GRACE = 2.0
"""Seconds that the others have to end by themselves."""

Process = tuple[int, str]
"""Its id and when it began, which together are never used again."""


def start_reaper(folder: Path | None = None) -> subprocess.Popen[bytes] | None:
    """A reaper of what this process has started and will start; None where there is no /proc to look at.

    It deletes a folder too, after all have ended.
    """
    if not Path("/proc/self/stat").exists():
        return None
    arguments = [sys.executable, "-I", "-S", __file__, str(os.getpid()), *([] if folder is None else [str(folder)])]
    null = subprocess.DEVNULL
    # A session of its own: what ends the learner's process group must not end the reaper.
    return subprocess.Popen(arguments, stdin=null, stdout=null, stderr=null, start_new_session=True)


def stop_reaper(reaper: subprocess.Popen[bytes]) -> None:
    """End it, where everything was ended in order."""
    reaper.kill()
    reaper.wait()


def processes() -> dict[Process, int]:
    """The processes of this machine and their parents."""
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
                if fields[0] != "Z":
                    found[int(entry), fields[19]] = int(fields[1])
    return found


def below(ancestors: set[int], parents: dict[Process, int]) -> set[Process]:
    """Every process below some."""
    found: set[Process] = set()
    while True:
        known = ancestors | {pid for pid, _ in found}
        more = {process for process, parent in parents.items() if parent in known} - found
        if not more:
            return found
        found |= more


def reap(learner: int) -> None:
    """Wait for the learner's end, and then for that of all below it; kill those that do not come to it."""
    family: set[Process] = set()
    while os.getppid() == learner:
        family = survivors(family, [learner])
        time.sleep(INTERVAL)
    deadline = time.monotonic() + GRACE
    while (family := survivors(family)) and time.monotonic() < deadline:
        time.sleep(INTERVAL / 10)
    for pid, _ in family:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def survivors(family: set[Process], ancestors: Collection[int] = ()) -> set[Process]:
    """The processes of a family that still live, their descendants and those of the ancestors, without this process."""
    parents = processes()
    left = family & parents.keys()
    found = left | below({*ancestors, *(pid for pid, _ in left)}, parents)
    return {process for process in found if process[0] != os.getpid()}


if __name__ == "__main__":
    reap(int(sys.argv[1]))
    for place in sys.argv[2:]:
        shutil.rmtree(place, ignore_errors=True)
