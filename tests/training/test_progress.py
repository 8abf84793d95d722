"""The progress line: plain lines in a file, live lines on a terminal, the same facts in both."""

from __future__ import annotations

import io

import pytest

from training import progress
from training.progress import PLAIN_INTERVAL, RECENT, ProgressLine, RecentRate


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    """A clock that stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    monkeypatch.setattr(ProgressLine, "_next_plain_line", 0.0)
    return clock


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_steps_rate_and_return_are_shown(stream: type[io.StringIO], clock: Clock) -> None:
    out = stream()
    line = ProgressLine(1_000_000, 1000, out)
    for step in range(2000, 5001, 1000):
        clock.now += 2
        line.update(step)
    line.update(5000, {"return": 0.51234}, last=True)
    line.close()
    text = out.getvalue()
    assert "5,000 / 1,000,000 steps  500 steps/s  return 0.512" in text
    assert "left" not in text.splitlines()[-1]


def test_a_rate_is_that_of_the_last_minute_and_not_of_the_start(clock: Clock) -> None:
    rate, count = RecentRate(), 0
    for seconds, counts in [(300.0, 10)] + [(0.5, 100)] * 400 + [(0.5, 30)] * 200:
        clock.now += seconds
        count += counts
        rate.add(count)
    assert rate.value == pytest.approx(60, rel=0.01)
    assert len(rate._marks) <= RECENT + 3, "an update a millisecond must not be kept a minute"


def test_nothing_is_foretold_before_two_updates_are_timed(clock: Clock) -> None:
    """The first one started the actors: by it a run of a minute had 17555 hours left."""
    out = io.StringIO()
    line = ProgressLine(1000, 0, out)
    for count, seconds in enumerate((60.0, 10.0, 10.0), 1):
        clock.now += seconds
        line.update(count)
    first, second, third = out.getvalue().splitlines()
    assert (first, second) == ("1 / 1,000 steps", "2 / 1,000 steps")
    assert third == "3 / 1,000 steps  0.10 steps/s  2:46:10 left"


def test_a_file_gets_a_line_at_an_interval_whatever_the_tasks(clock: Clock) -> None:
    out = io.StringIO()
    outer = ProgressLine(1000, 0, out)
    for step in range(100):
        with ProgressLine(10, 0, out, what="inner") as inner:
            clock.now += 0.5
            inner.update(1)
        outer.update(step)
    assert 50 / PLAIN_INTERVAL <= out.getvalue().count("\n") <= 50 / PLAIN_INTERVAL + 1


def test_a_task_of_unknown_length_is_announced_and_a_short_one_is_not(clock: Clock) -> None:
    out = io.StringIO()
    with ProgressLine(None, 0, out, what="starting Ray"):
        pass
    with ProgressLine(3, 0, out, what="reading clips", unit="clips") as line:
        for count in range(1, 4):
            line.update(count)
    assert out.getvalue() == "starting Ray\n"


def test_lines_of_tasks_within_tasks_share_a_terminal() -> None:
    out = Terminal()
    with ProgressLine(10, 0, out) as outer:
        with ProgressLine(None, 0, out, what="learning sub-words"):
            pass
        with ProgressLine(5, 0, out, what="scoring", unit="tokens") as inner:
            for count in range(10_000):
                inner.update(count % 5)
        outer.update(10, last=True)
    assert "10 / 10 steps" in out.getvalue()
    assert len(out.getvalue()) < 10_000
    assert progress.LiveLine._shared is None
