"""The command line under faults: interrupted, killed, its Ray killed, its secrets kept."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from reverie import checkpoint
from reverie.cli import main
from tests.agents.processes import actor_pids, command_line, descendants, wait_until

ROOT = Path(__file__).parents[2]
CONFIG = """
env: {id: "envs:TMaze-v0", kwargs: {length: 3}}
core: {name: lstm, d_model: 16}
agent: {num_actors: 1, envs_per_actor: 4, batch_size: 4, unroll_length: 8, encoder_width: 16}
train: {total_steps: 1000000000, checkpoint_interval: 10, log_interval: 5}
run: {name: run}
"""
TOKEN = "0123456789abcdef" * 4
SOON = {"RAY_gcs_rpc_server_reconnect_timeout_s": "3"}
"""Of Ray's head, without which a run ends."""


class Run:
    """A training run in a process of its own."""

    def __init__(self, folder: Path, *words: str) -> None:
        config = folder / "experiment.yaml"
        config.write_text(CONFIG)
        home = folder / "hidden-home"
        home.mkdir(exist_ok=True)
        self.folder = folder / "runs" / "run"
        self.log = folder / "log"
        environment = {**os.environ, "HOME": str(home), "RAY_AUTH_TOKEN": TOKEN} | SOON
        arguments = [sys.executable, "-m", "reverie", "train", str(config), f"run.root={folder / 'runs'}", *words]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                arguments, cwd=ROOT, stdout=log, stderr=log, env=environment, start_new_session=True
            )

    @property
    def below(self) -> list[int]:
        return descendants(self.process.pid)

    def has_saved(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        return bool(checkpoint.folders(self.folder / "checkpoints"))

    def below_named(self, name: bytes) -> list[int]:
        return [pid for pid in self.below if name in command_line(pid)]

    def end(self) -> None:
        below = {pid: command_line(pid) for pid in self.below}
        self.process.kill()
        self.process.wait()
        wait_until(lambda: gone(list(below)), 20)
        for pid, command in below.items():
            if command and command_line(pid) == command:
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    runs: list[Run] = []

    def begin(*words: str) -> Run:
        runs.append(Run(tmp_path, *words))
        return runs[-1]

    yield begin
    for run in runs:
        run.end()


def gone(pids: list[int]) -> bool:
    return not any(map(command_line, pids))


def test_a_killed_learner_takes_its_processes_along_and_a_stopped_one_keeps_no_secret(
    start: Callable[..., Run],
) -> None:
    run = start("agent.num_learners=2", "agent.batch_size=8")
    assert wait_until(run.has_saved, 300)
    below = run.below
    assert actor_pids(run.process.pid)
    run.process.kill()
    run.process.wait()
    assert wait_until(lambda: gone(below), 30)
    found, skipped = checkpoint.newest(run.folder / "checkpoints")
    assert found is not None
    assert not skipped

    # One learner fewer is no hindrance to a resume.
    resumed = start("--resume")
    assert wait_until(lambda: "resumed from" in resumed.log.read_text(), 300)
    time.sleep(1.0)
    below = resumed.below
    resumed.process.send_signal(signal.SIGTERM)
    assert resumed.process.wait(60) == 143
    assert wait_until(lambda: gone(below), 30)
    last, _ = checkpoint.newest(run.folder / "checkpoints")
    assert last is not None
    assert last.step > found.step
    for path in [resumed.log, *run.folder.rglob("*")]:
        text = path.read_bytes().decode(errors="replace") if path.is_file() else ""
        assert TOKEN not in text
        assert "hidden-home" not in text, path


@pytest.mark.parametrize("service", [b"raylet/raylet", b"gcs_server"], ids=["raylet", "gcs"])
def test_a_run_whose_ray_dies_ends_in_time_with_its_checkpoint_whole(start: Callable[..., Run], service: bytes) -> None:
    run = start()
    assert wait_until(run.has_saved, 300)
    (pid,) = [p for p in run.below if service in command_line(p).split(b"\0")[0]]
    os.kill(pid, signal.SIGKILL)
    assert run.process.wait(90) not in (0, None)
    assert "Traceback" not in run.log.read_text()
    found, skipped = checkpoint.newest(run.folder / "checkpoints")
    assert found is not None
    assert not skipped


@pytest.mark.parametrize("moment", ["interrupted at once", "interrupted while Ray starts", "ended while Ray starts"])
def test_a_signal_during_the_start_leaves_nothing(start: Callable[..., Run], moment: str) -> None:
    run = start()
    if "Ray" in moment:
        assert wait_until(lambda: bool(run.below_named(b"gcs_server")), 60)
    else:
        assert wait_until(lambda: run.folder.exists(), 60)
    commands = [command_line(pid) for pid in run.below]
    private = {Path(os.fsdecode(found)) for found in re.findall(rb"(/[^\0=]*/reverie-\w+)/", b"".join(commands))}
    assert len(private) == ("Ray" in moment)
    below: set[int] = set()
    if moment.startswith("interrupted"):
        os.killpg(run.process.pid, signal.SIGINT)  # as a terminal does
    else:
        run.process.send_signal(signal.SIGTERM)
    assert wait_until(lambda: below.update(run.below) or run.process.poll() is not None, 60)
    codes = (130,) if moment.startswith("interrupted") else (143, -signal.SIGTERM)  # which a shell calls 143 too
    assert run.process.returncode in codes, run.log.read_text()
    assert wait_until(lambda: gone(list(below)), 20)
    assert wait_until(lambda: not any(map(Path.exists, private)), 20)
    assert "Traceback" not in run.log.read_text()


def test_a_root_that_cannot_be_written_is_a_clear_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "experiment.yaml"
    config.write_text(CONFIG)
    assert main(["train", str(config), "run.root=/proc/nowhere"]) == 2
    assert "\nerror: /proc/nowhere/run: " in capsys.readouterr().err


def test_update_after_update_that_is_not_finite_ends_with_exit_code_3(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "experiment.yaml"
    config.write_text(CONFIG)
    words = ["train", str(config), "agent.num_actors=0", f"run.root={tmp_path}"]
    assert main([*words, "train.total_steps=640"]) == 0
    before, _ = checkpoint.newest(tmp_path / "run" / "checkpoints")
    assert main([*words, "--resume", "agent.reward_scale=1e+38"]) == 3
    assert "5 updates in a row" in capsys.readouterr().err
    after, skipped = checkpoint.newest(tmp_path / "run" / "checkpoints")
    assert before is not None
    assert after is not None
    assert not skipped
    assert after.step == before.step


def test_address_is_for_actors_on_processes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "experiment.yaml"
    config.write_text(CONFIG)
    words = ["train", str(config), "agent.num_actors=0", f"run.root={tmp_path}", "--address", "auto"]
    assert main(words) == 2
    assert "--address: agent.num_actors is 0" in capsys.readouterr().err
