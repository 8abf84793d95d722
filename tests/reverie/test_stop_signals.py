"""Signals: before training they stop what is prepared and leave nothing; the second ends a process at once."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audio import waveform
from lm import subwords
from lm.documents import Document
from reverie.cli import main
from training.stop_signals import STOP_SIGNALS, StopRequested, collect_stop_signals, raise_stop_signals

TEXT = """
data: {path: text.txt, tokens: words, cache: cache}
core: {name: lstm, d_model: 8}
train: {total_tokens: 64, batch_size: 1, segment_length: 8}
run: {name: run}
"""
SOUND = TEXT.replace("path: text.txt, tokens: words", "path: clips, layout: folder, sample_rate: 8000")


@pytest.fixture
def stopped_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, signal.Signals]:
    """Data of both kinds, whose second reading gets the signal that the test puts under "signal"."""
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("to be or not to be " * 50)
    Path("clips/train").mkdir(parents=True)
    Path("clips/validation").mkdir()
    for name in ("train/0", "train/1", "validation/0"):
        soundfile.write(f"clips/{name}.wav", np.full(800, 0.5), 8000)
    chosen: dict[str, signal.Signals] = {}
    begun = 0

    def at_the_second() -> None:
        nonlocal begun
        begun += 1
        if begun == 2:
            assert list(Path("cache").glob(".reverie-preparing-*"))
            signal.raise_signal(chosen["signal"])

    read_document, read_parts = Document.read, waveform.read_parts

    def document(self: Document) -> bytes:
        if Path("cache").exists():  # past the vocabulary
            at_the_second()
        return read_document(self)

    def parts(*arguments: object) -> Iterator[waveform.Clip]:
        at_the_second()
        return read_parts(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Document, "read", document)
    monkeypatch.setattr(waveform, "read_parts", parts)
    return chosen


@pytest.mark.parametrize("number", STOP_SIGNALS)
@pytest.mark.parametrize("config", [TEXT, SOUND], ids=["text", "sound"])
def test_a_signal_stops_a_preparation_and_leaves_nothing(
    stopped_by: dict[str, signal.Signals], config: str, number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    stopped_by["signal"] = number
    Path("experiment.yaml").write_text(config)
    assert main(["train", "experiment.yaml"]) == 128 + number
    assert f"stopped by {number.name}" in capsys.readouterr().err
    assert list(Path("cache").iterdir()) == []
    assert not Path("runs").exists()
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == before


def test_a_signal_is_heard_while_a_library_learns_sub_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its learning takes a minute and runs no Python, so it gets a thread of its own."""
    ended = threading.Event()

    class Busy:
        def __init__(self, model: object) -> None:
            """Learns nothing."""

        def train_from_iterator(self, texts: Iterator[str], trainer: object) -> None:
            ended.wait(20)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(subwords, "Tokenizer", Busy)
    Path("text.txt").write_text("to be or not to be " * 50)
    Path("experiment.yaml").write_text(TEXT.replace("words", "subwords"))
    timer = threading.Timer(3.0, os.kill, (os.getpid(), signal.SIGTERM))
    began = time.monotonic()
    timer.start()
    assert main(["train", "experiment.yaml"]) == 143
    ended.set()
    assert time.monotonic() - began < 15
    assert "learning 8,192 sub-words" in capsys.readouterr().err


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_library_that_makes_another_error_of_a_signal_changes_nothing(error: type[BaseException]) -> None:
    def library() -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt:
            raise error from None

    with pytest.raises(StopRequested, match="stopped by SIGTERM") as caught, raise_stop_signals():
        library()
    assert caught.value.exit_code == 143
    with pytest.raises(error), raise_stop_signals():
        raise error


def test_a_second_signal_ends_the_process_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    exits: list[int] = []
    monkeypatch.setattr(os, "_exit", exits.append)
    with collect_stop_signals() as received:
        signal.raise_signal(signal.SIGTERM)
        assert (received, exits) == ([signal.SIGTERM], [])
        signal.raise_signal(signal.SIGINT)
    assert exits == [130]


def test_a_run_that_nohup_shields_does_not_end_with_its_terminal() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with contextlib.suppress(KeyboardInterrupt), collect_stop_signals() as received:
            signal.raise_signal(signal.SIGHUP)
        assert received == []
    finally:
        signal.signal(signal.SIGHUP, before)
