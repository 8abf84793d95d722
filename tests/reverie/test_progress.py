"""The progress line: plain lines in a file, one live line on a terminal, the same facts in both."""

import io

import pytest

from reverie.progress import ProgressLine


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_steps_rate_and_return_are_shown(stream):
    out = stream()
    progress = ProgressLine(1_000_000, 1000, out)
    for step in range(2000, 5001, 1000):
        progress.update(step, {})
    progress.update(5000, {"return": 0.51234}, last=True)
    progress.close()
    text = out.getvalue()
    assert "5,000 / 1,000,000 steps" in text
    assert "steps/s" in text
    assert "return 0.512" in text


def test_a_file_is_not_flooded_with_lines():
    out = io.StringIO()
    progress = ProgressLine(1000, 0, out)
    for step in range(500):
        progress.update(step, {"return": 1.0})
    assert out.getvalue().count("\n") == 1


def test_steps_of_before_a_resume_do_not_count_into_the_rate():
    progress = ProgressLine(1000, 900, io.StringIO())
    assert progress.rate(900) == 0
