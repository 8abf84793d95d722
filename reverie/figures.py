"""Figures in a plain style, whose text is never taken for anything else."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from matplotlib.text import Text

from training.files import write_file


@contextlib.contextmanager
def plain_style() -> Iterator[None]:
    """Matplotlib's own style: a file of settings in the working folder, such as a run's, could have it start LaTeX."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        yield


def write_figure(figure: Figure, output: Path) -> None:
    """Write a PNG, in which all text stands as it is; raises OSError."""
    for text in figure.findobj(Text):
        text.set_parse_math(False)  # a setting or a name may hold a dollar sign
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    write_file(output, picture.getvalue())
