"""Output whose reader has gone, whose disk is full, or whose terminal lacks the characters."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from reverie import checkpoint
from reverie.output import LossyStream, lossy_output
from tests.reverie.test_train_rl import CONFIG

ROOT = Path(__file__).parents[2]


def broken_pipe() -> int:
    """The writing end of a pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    return writing


def reverie(*words: str, stdout: int | None = None, stderr: int | None = None) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "reverie", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    try:
        return subprocess.run(command, stdout=stdout, stderr=stderr, env=environment, check=False)
    finally:
        for descriptor in {stdout, stderr} - {None, subprocess.PIPE}:
            os.close(descriptor)


@pytest.mark.parametrize("descriptor", [broken_pipe, lambda: os.open("/dev/full", os.O_WRONLY)])
def test_what_cannot_be_written_is_dropped(descriptor) -> None:
    with os.fdopen(descriptor(), "w", encoding="utf-8") as stream:
        assert LossyStream(stream).write("a line\n") == 7
        LossyStream(stream).flush()


def test_characters_that_a_terminal_lacks_are_escaped(tmp_path: Path) -> None:
    with (tmp_path / "out").open("w", encoding="ascii") as stream:
        LossyStream(stream).write("∞-former\n")
    assert (tmp_path / "out").read_bytes() == b"\\u221e-former\n"


def test_a_closed_stream_is_lent_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    with lossy_output("stderr"):
        print("nobody reads this", file=sys.stderr)
        assert not sys.stderr.isatty()
    assert sys.stderr is None


def test_a_reader_that_goes_ends_a_listing_quietly() -> None:
    done = reverie("list", "configs", stdout=broken_pipe(), stderr=subprocess.PIPE)
    assert done.returncode == 128 + signal.SIGPIPE
    assert done.stderr == b""


def test_training_goes_on_and_saves_when_nobody_reads_its_progress(tmp_path: Path) -> None:
    (tmp_path / "experiment.yaml").write_text(CONFIG.replace("total_steps: 3000", "total_steps: 320"))
    words = ["train", str(tmp_path / "experiment.yaml"), f"run.root={tmp_path}"]
    assert reverie(*words, stdout=broken_pipe(), stderr=broken_pipe()).returncode == 0
    found, skipped = checkpoint.newest(tmp_path / "run" / "checkpoints")
    assert found is not None
    assert (found.step >= 320, skipped) == (True, [])
