"""What a Ray of our own takes of this machine and gives back: a private folder, open files, processes."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.reaper import start_reaper, stop_reaper
from training.errors import TrainingError

MAX_PLACE = 30
"""Bytes of the path in which a private folder is made: with Ray's names below it, the path of a socket has 107."""
PLACES = ("/tmp", "/var/tmp")
"""Where private folders are made if the path of TMPDIR is longer."""
OPEN_FILES, OPEN_FILES_OF_PROCESS = 128, 8
"""Files that Ray has open in its busiest process, and those that each process on it adds there."""


@dataclass
class RaySession:
    """A Ray that this process uses."""

    ray: Any
    """The module."""
    folder: Path | None = None
    """Where a Ray that was started here keeps its sockets and logs."""
    reaper: subprocess.Popen[bytes] | None = None
    is_shared: bool = False
    """Whether this process had joined it before."""

    @classmethod
    def begin(cls, ray: Any, is_local: bool) -> RaySession:
        """A session for a Ray that is yet to be started on this machine, or joined; raises TrainingError."""
        folder = make_private_folder() if is_local else None
        return cls(ray, folder, start_reaper(folder))

    def close(self) -> None:
        """End Ray and delete its folder, unless it is shared."""
        if self.is_shared:
            return
        self.ray.shutdown()
        if self.folder is not None:
            # What is ending may still write its logs.
            for _ in range(20):
                shutil.rmtree(self.folder, ignore_errors=True)
                if not self.folder.exists():
                    break
                time.sleep(0.1)
        if self.reaper is not None:
            stop_reaper(self.reaper)


def make_private_folder() -> Path:
    """A new folder of a short path that other users cannot look into; raises TrainingError."""
    problems = []
    for place in dict.fromkeys((tempfile.gettempdir(), *PLACES)):
        if len(os.fsencode(place)) > MAX_PLACE:
            problems.append(f"{place} has more than {MAX_PLACE} bytes")
            continue
        try:
            return Path(tempfile.mkdtemp(dir=place, prefix="reverie-"))
        except OSError as error:
            problems.append(f"{place}: {error.strerror or error}")
    raise TrainingError(
        f"Ray needs a folder for its sockets, with a short path: {'; '.join(problems)}; set TMPDIR to a short one"
    )


def require_open_files(num_processes: int) -> None:
    """Raise TrainingError where this process may not open the files that a Ray with these processes needs.

    The soft limit is raised to the hard one where that helps.
    """
    needed = OPEN_FILES + OPEN_FILES_OF_PROCESS * num_processes
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise TrainingError(
            f"{hard} files may be open here (ulimit -Hn), Ray needs {needed} for this run: raise the limit, or lower "
            "agent.num_actors; 0 trains without Ray"
        )
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
