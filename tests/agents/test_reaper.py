"""What the death of a learner leaves behind: nothing, however it was started."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from agents.reaper import GRACE, INTERVAL
from tests.agents.processes import command_line, descendants, wait_until

LEARNER = """
import subprocess, sys, time
from agents.reaper import start_reaper
start_reaper()
child = "import subprocess; print(subprocess.Popen(['sleep', '600'], start_new_session=True).wait())"
subprocess.Popen([sys.executable, "-c", child], start_new_session=True)
time.sleep(600)
"""


def test_what_outlives_a_killed_learner_is_ended_and_a_stranger_is_left_alone() -> None:
    stranger = subprocess.Popen(["sleep", "600"], start_new_session=True)
    learner = subprocess.Popen([sys.executable, "-c", LEARNER], cwd=Path(__file__).parents[2])
    assert wait_until(lambda: any(command_line(pid).startswith(b"sleep") for pid in descendants(learner.pid)), 60)
    below = descendants(learner.pid)
    assert len(below) == 3
    time.sleep(3 * INTERVAL)  # so that the reaper has seen them
    learner.kill()
    learner.wait()
    assert wait_until(lambda: not any(map(command_line, below)), GRACE + 30)
    assert stranger.poll() is None
    stranger.kill()
    stranger.wait()
