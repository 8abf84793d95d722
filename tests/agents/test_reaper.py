"""What the death of a learner leaves behind: nothing, however it was started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
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


def test_what_outlives_a_killed_learner_is_ended() -> None:
    learner = subprocess.Popen([sys.executable, "-c", LEARNER], cwd=Path(__file__).parents[2])
    assert wait_until(lambda: any(command_line(pid).startswith(b"sleep") for pid in descendants(learner.pid)), 60)
    below = descendants(learner.pid)
    assert len(below) == 3
    wait_until(lambda: False, 3 * INTERVAL)  # so that the reaper has seen them
    learner.send_signal(signal.SIGKILL)
    learner.wait()
    assert wait_until(lambda: not any(command_line(pid) for pid in below), GRACE + 30)


def test_a_stranger_is_left_alone() -> None:
    stranger = subprocess.Popen(["sleep", "600"], start_new_session=True)
    learner = subprocess.Popen([sys.executable, "-c", LEARNER], cwd=Path(__file__).parents[2])
    assert wait_until(lambda: len(descendants(learner.pid)) == 3, 60)
    below = descendants(learner.pid)
    learner.kill()
    learner.wait()
    assert wait_until(lambda: not any(command_line(pid) for pid in below), GRACE + 30)
    assert stranger.poll() is None
    os.kill(stranger.pid, signal.SIGKILL)
    stranger.wait()
