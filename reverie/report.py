"""Learning curves of several runs in one figure: runs that differ only in their seed share one curve."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import EngFormatter, PercentFormatter
from numpy.typing import NDArray

from reverie import yaml_loader
from reverie.figures import plain_style, write_figure
from reverie.metrics_file import read_rows
from reverie.path_interface import Curve
from reverie.paths import PATHS
from reverie.run_folder import CONFIG, METRICS, flatten
from reverie.tables import align
from training.errors import UserError
from training.printable import printable

CURVES: dict[str, Curve] = {tag: curve for path in PATHS for tag, curve in path.curves.items()}
"""The metrics to draw, where a run has them."""
BASELINES = {"baseline/unigram_bits_per_sample": "unigram", "baseline/bigram_bits_per_sample": "bigram"}
"""The baselines on the same data, drawn as lines beside `validation/bits_per_sample`."""
NUM_BINS = 100
MAX_DRAWN = 3.4e38
"""The largest number in float32; sums of larger ones could overflow."""
MAX_LABEL = 60
"""Characters of a setting in a label."""
FINAL_FRACTION = 0.1
"""The part of a run, at its end, over which a final value is averaged."""
_SAME_EXPERIMENT = ("train.seed", "run.name", "run.root")
# Okabe and Ito's palette, told apart by colour-blind readers; black comes last, pale yellow is left out.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_DASHES = ("-", "--", ":", "-.")

Array = NDArray[np.float64]

logger = logging.getLogger(__name__)


class ReportError(UserError):
    """Runs that cannot be drawn; the message names the run and gives the reason."""


@dataclass(frozen=True)
class Run:
    """The configuration of one run and its curves: for each tag the steps, in order, and the values."""

    path: Path
    config: dict[str, Any]
    curves: dict[str, tuple[Array, Array]]
    seconds: dict[str, Array]
    """For each tag the seconds of training at each of its steps; empty for a run whose rows have no `seconds`."""
    baselines: dict[str, float]

    @property
    def task(self) -> str:
        """The environment, or the name and length of a synthetic task; empty for a corpus of files."""
        if "data.task" in self.config:
            return f"{self.config['data.task']} of {self.config.get('data.length')}"
        return str(self.config.get("env.id", ""))

    @property
    def last_step(self) -> float:
        return float(max(steps[-1] for steps, _ in self.curves.values()))

    def curve(self, tag: str, by_time: bool) -> tuple[Array, Array] | None:
        """Steps, or seconds, and values; None where the run has no such curve."""
        if tag not in self.curves or (by_time and tag not in self.seconds):
            return None
        steps, values = self.curves[tag]
        return (self.seconds[tag] if by_time else steps), values

    def final(self, tag: str) -> float:
        """The mean of a curve over the last part of its run, or its last value where it has none there."""
        steps, values = self.curves[tag]
        last = values[steps >= self.last_step * (1 - FINAL_FRACTION)]
        return float(last.mean() if len(last) else values[-1])


@dataclass(frozen=True)
class Group:
    """Runs of one experiment that differ in their seed only."""

    label: str
    runs: list[Run]

    @property
    def task(self) -> str:
        """The task of its runs."""
        return self.runs[0].task


def read_runs(folders: Sequence[Path]) -> list[Group]:
    """The runs grouped by configuration, whatever their seed, name and root.

    A group is labelled by its core and by the settings that differ within its task. Groups of one task are adjacent.
    What is no run, or has no metrics yet, is logged and left out. Raises ReportError for a path that leads nowhere, or
    where no run is left.
    """
    by_config: dict[str, list[Run]] = {}
    problems = []
    for folder in dict.fromkeys(Path(os.path.abspath(folder)) for folder in folders):
        try:
            run = _read_run(folder)
        except ReportError as error:
            if not folder.exists():
                raise
            problems.append(str(error))
            continue
        shared = {key: value for key, value in run.config.items() if key not in _SAME_EXPERIMENT}
        by_config.setdefault(json.dumps(shared, sort_keys=True, default=str), []).append(run)
    if not by_config:
        raise ReportError("\n".join(problems))
    for problem in problems:
        logger.warning("left out of the report: %s", problem)
    of_tasks: dict[str, list[list[Run]]] = {}
    for runs in by_config.values():
        of_tasks.setdefault(runs[0].task, []).append(runs)
    return [
        Group(label, runs) for groups in of_tasks.values() for label, runs in zip(_labels(groups), groups, strict=True)
    ]


def by_task(groups: Sequence[Group]) -> list[list[Group]]:
    """The groups of each task, in order."""
    tasks = dict.fromkeys(group.task for group in groups)
    return [[group for group in groups if group.task == task] for task in tasks]


def draw(groups: Sequence[Group], output: Path) -> None:
    """Write a PNG with a row of panels for each task, a panel for each metric, and a line for each group.

    A line is the mean over the seeds of its group, a band their range. Metrics on held-out data have two panels,
    against steps and against seconds of training. Raises ReportError if the file cannot be written.
    """
    try:
        with plain_style():
            write_figure(figure_of(groups), output)
    except OSError as error:
        raise ReportError(f"{output}: cannot be written: {error.strerror or error}") from error


def figure_of(groups: Sequence[Group]) -> Figure:
    """The figure that `draw` writes."""
    tasks = by_task(groups)
    columns = max(len(_kinds(task)) for task in tasks)
    figure = Figure(figsize=(6.4 * columns, 4.4 * len(tasks)), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    for row, task in zip(figure.subfigures(len(tasks), 1, squeeze=False)[:, 0], tasks, strict=True):
        _draw_task(row, task, columns)
        if len(tasks) > 1:
            row.suptitle(printable(task[0].task[:MAX_LABEL]))
    return figure


def _kinds(groups: Sequence[Group]) -> list[tuple[str, bool]]:
    """The panels for groups: each a tag, and whether it is drawn against seconds."""
    runs = [run for group in groups for run in group.runs]
    return [
        (tag, by_time)
        for tag, curve in CURVES.items()
        for by_time in (False, True)
        if any(run.curve(tag, by_time) for run in runs) and (curve.is_held_out or not by_time)
    ]


def _draw_task(figure: SubFigure, groups: Sequence[Group], columns: int) -> None:
    """The panels of one task in one row, and their legend."""
    kinds = _kinds(groups)
    axes = [figure.add_subplot(1, columns, column + 1) for column in range(len(kinds))]
    for panel, (tag, by_time) in zip(axes, kinds, strict=True):
        for index, group in enumerate(groups):
            _draw_group(panel, tag, by_time, group, index)
        if tag == "validation/bits_per_sample":
            _draw_baselines(panel, [run for group in groups for run in group.runs])
        _dress(panel, tag, by_time)
    legend = {label: line for panel in axes for line, label in zip(*panel.get_legend_handles_labels(), strict=True)}
    if not legend:
        return
    handles, labels = list(legend.values()), list(legend)
    spread = any(len(group.runs) > 1 for group in groups)
    title = "mean over seeds; band: lowest to highest seed" if spread else None
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=1 if max(map(len, labels)) > 40 else min(len(labels), 2 * len(kinds)),
        frameon=False,
        title=title,
        title_fontsize=9,
    )


def table(groups: Sequence[Group]) -> str:
    """Runs, steps and final values of each group as text; a value is `mean [lowest, highest]` over seeds."""
    tags = [tag for tag in CURVES if any(tag in run.curves for group in groups for run in group.runs)]
    several = len(by_task(groups)) > 1
    rows = [[*(["task"] if several else []), "experiment", "runs", "steps", *(f"final {tag}" for tag in tags)]]
    for group in groups:
        steps = [run.last_step for run in group.runs]
        span = f"{min(steps):,.0f}" if min(steps) == max(steps) else f"{min(steps):,.0f} to {max(steps):,.0f}"
        task = [group.task] if several else []
        rows.append([*task, group.label, str(len(group.runs)), span, *(_final(group, tag) for tag in tags)])
    return "\n".join(align(rows))


def bins(steps: Array, values: Array, edges: Array) -> Array:
    """The means of the values between edges; empty bins inside a curve are interpolated, outside NaN."""
    index = np.clip(np.searchsorted(edges, steps, side="left") - 1, 0, len(edges) - 2)
    counts = np.bincount(index, minlength=len(edges) - 1)
    sums = np.bincount(index, weights=values, minlength=len(edges) - 1)
    filled = np.flatnonzero(counts)
    means = sums[filled] / counts[filled]
    return np.interp(np.arange(len(counts)), filled, means, left=math.nan, right=math.nan)


def _read_run(folder: Path) -> Run:
    try:
        config = yaml_loader.read(folder / CONFIG).value
        rows = read_rows(folder / METRICS)
    except yaml_loader.YamlError as error:
        raise ReportError(f"{folder / CONFIG}: {error}") from error
    except OSError as error:
        raise ReportError(f"{folder / METRICS}: cannot be read: {error.strerror or error}") from error
    if not isinstance(config, dict):
        raise ReportError(f"{folder / CONFIG}: is not a configuration")
    curves, seconds = {}, {}
    for tag in CURVES:
        points = sorted(
            (row["step"], row[tag], row.get("seconds", math.nan))
            for row in rows
            if _is_drawable(row.get(tag)) and _is_drawable(row.get("seconds", 0.0))
        )
        if points:
            steps, values, times = np.array(points, dtype=np.float64).T
            curves[tag] = (steps, values)
            if np.isfinite(times).all():
                seconds[tag] = times
    if not curves:
        raise ReportError(f"{folder / METRICS}: has no row with {' or '.join(CURVES)} yet")
    baselines = {tag: float(row[tag]) for row in rows for tag in BASELINES if _is_drawable(row.get(tag))}
    return Run(folder, flatten(config), curves, seconds, baselines)


def _is_drawable(value: Any) -> bool:
    """Whether a value of a row is a number of a size that the program writes."""
    return isinstance(value, int | float) and abs(value) <= MAX_DRAWN


def _labels(groups: Sequence[Sequence[Run]]) -> list[str]:
    configs = [runs[0].config for runs in groups]
    labels = []
    for config in configs:
        settings = [
            f"{key.rpartition('.')[2]} {str(value)[:MAX_LABEL]}"
            for key, value in config.items()
            if key != "core.name" and key not in _SAME_EXPERIMENT and value != {} and _differs(key, config, configs)
        ]
        labels.append(printable(", ".join([str(config.get("core.name", "?"))[:MAX_LABEL], *settings])))
    return labels


def _differs(key: str, config: dict[str, Any], configs: Sequence[dict[str, Any]]) -> bool:
    """Whether a label shows a setting: the task's if any run has another, the rest if a run of that core has."""
    if not key.startswith(("env.", "data.")):
        configs = [other for other in configs if other.get("core.name") == config.get("core.name")]
    return any(other.get(key) != config[key] for other in configs)


def _draw_group(panel: Axes, tag: str, by_time: bool, group: Group, index: int) -> None:
    curves = [curve for run in group.runs if (curve := run.curve(tag, by_time)) is not None]
    if not curves:
        return
    edges = np.linspace(0.0, max(places[-1] for places, _ in curves), NUM_BINS + 1)
    binned = np.stack([bins(places, values, edges) for places, values in curves])
    shown = np.isfinite(binned).all(axis=0)  # a mean over fewer seeds would jump where a seed ends
    centres = (edges[1:] + edges[:-1])[shown] / 2
    colour, dash = _COLOURS[index % len(_COLOURS)], _DASHES[index // len(_COLOURS) % len(_DASHES)]
    count = f" ({len(curves)} seeds)" if len(curves) > 1 else ""
    panel.plot(
        centres,
        binned[:, shown].mean(axis=0),
        color=colour,
        linestyle=dash,
        linewidth=1.8,
        label=group.label + count,
    )
    if len(curves) > 1:
        low, high = binned[:, shown].min(axis=0), binned[:, shown].max(axis=0)
        panel.fill_between(centres, low, high, color=colour, alpha=0.18, linewidth=0)


def _draw_baselines(panel: Axes, runs: Sequence[Run]) -> None:
    for (tag, name), dash in zip(BASELINES.items(), (":", "-."), strict=True):
        for value in sorted({round(run.baselines[tag], 6) for run in runs if tag in run.baselines}):
            panel.axhline(value, color="0.4", linestyle=dash, linewidth=1.2, label=f"{name} baseline {value:.2f}")


def _dress(panel: Axes, tag: str, by_time: bool) -> None:
    curve = CURVES[tag]
    panel.set_xlabel("seconds of training" if by_time else curve.steps)
    panel.set_ylabel(curve.label)
    panel.set_xlim(left=0)
    panel.xaxis.set_major_formatter(EngFormatter(sep=""))
    if curve.is_share:
        panel.set_ylim(-0.02, 1.02)
        panel.yaxis.set_major_formatter(PercentFormatter(1.0))
    panel.grid(color="0.9", linewidth=0.8)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)


def _final(group: Group, tag: str) -> str:
    finals = [run.final(tag) for run in group.runs if tag in run.curves]
    if not finals:
        return "-"
    mean = f"{sum(finals) / len(finals):.3g}"
    return mean if len(finals) == 1 else f"{mean} [{min(finals):.3g}, {max(finals):.3g}]"
