"""What tokens cost by their position in the document, as a table and as a picture: it shows what a memory buys."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from lm.scored import PositionBucket
from reverie.figures import plain_style, write_figure
from reverie.tables import format_number, print_table
from training.errors import UserError

Curves = Sequence[tuple[str, Sequence[PositionBucket]]]
"""For each evaluation its label and its curve."""


def print_positions(curves: Curves, unit: str) -> None:
    """Print a row for each range of positions and a column for each curve."""
    print(f"nats/{unit} by position in the document")
    rows = [["from position", *(label for label, _ in curves)]]
    for row in itertools.zip_longest(*(buckets for _, buckets in curves)):
        first = next(b.first for b in row if b is not None)
        rows.append([f"{first:,}", *(format_number(None if b is None else b.nats_per_token, ".4f") for b in row)])
    print_table(rows)


def draw_positions(curves: Curves, unit: str, title: str, output: Path) -> None:
    """Draw the curves into a PNG; raises UserError where it cannot be written."""
    try:
        with plain_style():
            figure = Figure(figsize=(6.4, 4.4), dpi=150, layout="constrained")
            FigureCanvasAgg(figure)
            panel = figure.add_subplot()
            for label, buckets in curves:
                edges = [buckets[0].first + 1, *(bucket.last + 2 for bucket in buckets)]
                panel.stairs(
                    [bucket.nats_per_token for bucket in buckets], edges, baseline=None, label=label, linewidth=1.6
                )
            panel.set_xscale("log", base=2)
            panel.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
            panel.set_xlabel(f"{unit} of the document, counted from 1")
            panel.set_ylabel(f"nats per {unit}")
            panel.set_title(title, fontsize=10)
            panel.legend(frameon=False)
            panel.grid(color="0.9", linewidth=0.8)
            panel.set_axisbelow(True)
            panel.spines[["top", "right"]].set_visible(False)
            write_figure(figure, output)
    except OSError as error:
        raise UserError(f"--by-position: {output}: cannot be written: {error.strerror or error}") from error
