"""A picture of a trained core at work: where it attends and how long it ponders."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from memory_cores import MemoryCore
from memory_cores.attention.band_transformer import BandTransformer
from memory_cores.attention.base import MemoryTransformer
from memory_cores.attention.buckets import BUCKETS, PARTS, AttentionBuckets, attention_buckets
from memory_cores.attention.recall import recall
from memory_cores.infinity.core import Infinity
from memory_cores.infinity.density import LongTermDensities, long_term_densities
from memory_cores.lstm.core import LSTM
from memory_cores.reformer.core import Reformer
from memory_cores.universal.core import Universal
from reverie.checkpoint import Checkpoint
from reverie.event_file import EventFile
from reverie.figures import plain_style, write_figure
from reverie.paths import Experiment, path_of
from reverie.report import ReportError
from reverie.run_folder import EVENTS

ROWS = 16
"""Streams in the batch of inputs."""
TURNS = 8
"""Periods of the core to draw once its memory is full."""
PONDER_ROWS, PONDER_STEPS = 8, 96
RECALL_STEPS = 128
"""Steps of one stream whose recall is drawn."""
GRID = 200
"""Positions at which the density over a long-term memory is drawn."""
TAG = "inside/core"
_COLOURS = dict(zip(PARTS, ("#D55E00", "#0072B2", "#009E73"), strict=True))

Panel = Callable[[Axes], None]


def draw_core(run: Path, config: Experiment, checkpoint: Checkpoint, output: Path) -> None:
    """Draw the core of a run's checkpoint into a PNG, and the same picture into the run's TensorBoard.

    Raises ReportError for a core with nothing to draw or a file that cannot be written.
    """
    torch.manual_seed(0)
    core, x, reset = path_of(config).core_inputs(config, checkpoint, ROWS, _steps)
    panels = _panels(core.eval(), x, reset)
    if not panels:
        raise ReportError(f"{run}: the core {config.core.name!r} neither attends to a memory nor ponders")
    try:
        with plain_style():
            figure = Figure(figsize=(6.4 * len(panels), 4.4), dpi=150, layout="constrained")
            canvas = FigureCanvasAgg(figure)
            for column, panel in enumerate(panels, start=1):
                panel(figure.add_subplot(1, len(panels), column))
            figure.suptitle(f"{config.core.name} of {run.name}, step {checkpoint.step:,}", fontsize=11)
            write_figure(figure, output)
        picture = np.asarray(canvas.buffer_rgba())[..., :3]  # type: ignore[no-untyped-call]
        EventFile(run / EVENTS).add_picture(checkpoint.step, TAG, picture)
    except OSError as error:
        raise ReportError(f"{error.filename or output}: cannot be written: {error.strerror or error}") from error


def _steps(core: MemoryCore) -> int:
    """Steps that fill the memory and go on for some periods, and at least as many as a ponder map shows."""
    turns = TURNS
    if isinstance(core, MemoryTransformer):
        turns += math.ceil(core.schedule.span / core.period)
    return max(turns * core.period, PONDER_STEPS)


def _panels(core: MemoryCore, x: Tensor, reset: Tensor) -> list[Panel]:
    """The panels that a core of this kind has; an empty list where there is nothing to draw."""
    if isinstance(core, Universal | LSTM):
        return [_ponder_panel(core, x, reset)] if core.adaptive else []
    if not isinstance(core, MemoryTransformer):
        return []
    if isinstance(core, BandTransformer):
        return _recall_panels(core, x, reset)
    panels = [_bucket_panel(attention_buckets(core, x, reset), has_slots=bool(core.schedule.compressed_length))]
    if isinstance(core, Infinity):
        return [*panels, _density_panel(core, x, reset)]
    with torch.no_grad():
        metrics = core(x, core.initial_state(len(x)), reset).metrics
    losses = [float(value) for name, value in metrics.items() if name.startswith("compression_loss_layer_")]
    return [*panels, _loss_panel(losses)] if losses else panels


def _bucket_panel(attention: AttentionBuckets, has_slots: bool) -> Panel:
    """Attention by part of the memory: the mean over periods and layers; bars are one sigma over periods."""
    by_turn = attention.shares.mean(dim=1)
    mean, sigma = by_turn.mean(dim=0).tolist(), by_turn.std(dim=0, correction=0).tolist()

    def draw(axes: Axes) -> None:
        for index, part in enumerate(PARTS):
            places = range(BUCKETS * index, BUCKETS * (index + 1))
            if part != "compressed" or has_slots:
                heights, bars = [mean[p] for p in places], [sigma[p] for p in places]
                axes.bar(places, heights, yerr=bars, color=_COLOURS[part], ecolor="0.3", capsize=2, label=part)
        axes.set_xticks([])
        axes.set_xlabel("from the oldest to the newest, six equal buckets each")
        axes.set_ylabel("attention")
        axes.set_ylim(bottom=0)
        note = "" if attention.full else "; memory never full"
        axes.set_title(f"mean over {len(by_turn)} turns, bars: 1 sigma{note}", fontsize=9)
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)

    return draw


def _loss_panel(losses: list[float]) -> Panel:
    """The compression loss of each layer, from the lowest to the highest."""

    def draw(axes: Axes) -> None:
        axes.bar([str(layer) for layer in range(1, len(losses) + 1)], losses, color=_COLOURS["compressed"])
        axes.set_xlabel("layer")
        axes.set_ylabel("compression loss")
        axes.spines[["top", "right"]].set_visible(False)

    return draw


def _density_panel(core: Infinity, x: Tensor, reset: Tensor) -> Panel:
    """The density of the first row's attention over its long-term memory, mean over heads and layers, against time."""
    densities: LongTermDensities = long_term_densities(core, x, core.initial_state(len(x)), reset)
    places = torch.linspace(0, 1, GRID)
    mean, deviation = (t[0].flatten(0, 1).float() for t in (densities.mean, densities.deviation))  # (L H, T)
    offset = (places[:, None, None] - mean) / deviation
    density = ((-0.5 * offset.square()).exp() / deviation / math.sqrt(2 * math.pi)).mean(dim=1)  # (GRID, T)
    density = density.masked_fill(~densities.holds[0], math.nan)

    def draw(axes: Axes) -> None:
        picture = axes.imshow(
            density.numpy(), origin="lower", aspect="auto", extent=(0, density.shape[1], 0, 1), cmap="viridis"
        )
        assert axes.figure is not None
        axes.figure.colorbar(picture, ax=axes, label="density")
        if densities.points is not None:
            for turn, points in zip(densities.turns, densities.points[0, 0].unbind(), strict=True):
                axes.plot([turn] * len(points), points.numpy(), "|", color="white", markersize=2, alpha=0.3)
            axes.set_title("white: where sticky memories were sampled, layer 1", fontsize=9)
        axes.set_xlabel("step of one stream")
        axes.set_ylabel("place in the long-term memory (1 is newest)")

    return draw


def _recall_panels(core: BandTransformer, x: Tensor, reset: Tensor) -> list[Panel]:
    """How far back each step of the first row looks, and the cluster or bucket of each, where there are any."""
    found = recall(core, x[:1], reset[:1])
    steps = slice(max(0, x.shape[1] - RECALL_STEPS), None)
    weights, first = found.weights.mean(dim=0)[steps], x.shape[1] - len(found.weights[0, steps])

    def draw_weights(axes: Axes) -> None:
        extent = (first, x.shape[1], -0.5, weights.shape[1] - 0.5)
        picture = axes.imshow(
            weights.T.numpy(), origin="lower", aspect="auto", extent=extent, cmap="magma", norm=PowerNorm(0.5)
        )
        assert axes.figure is not None
        axes.figure.colorbar(picture, ax=axes, label="attention, mean over layers and the heads that choose")
        axes.set_xlabel("step of one stream")
        axes.set_ylabel("steps back")

    def draw_groups(axes: Axes) -> None:
        assert found.groups is not None
        groups = found.groups.flatten(0, 1)[:, steps]
        picture = axes.imshow(
            groups.numpy(),
            aspect="auto",
            extent=(first, x.shape[1], len(groups), 0),
            cmap="turbo",
            interpolation="none",
        )
        assert axes.figure is not None
        label = "bucket of the first round" if isinstance(core, Reformer) else "cluster"
        axes.figure.colorbar(picture, ax=axes, label=label, ticks=MaxNLocator(integer=True))
        axes.set_xlabel("step of one stream")
        heads = found.groups.shape[1]
        axes.set_yticks(range(0, len(groups), heads), [f"layer {layer + 1}" for layer in range(len(found.groups))])
        axes.set_ylabel("heads of each layer")

    return [draw_weights] if found.groups is None else [draw_weights, draw_groups]


@torch.no_grad()
def _ponder_panel(core: Universal | LSTM, x: Tensor, reset: Tensor) -> Panel:
    """The ponder steps of each input, for the first rows."""
    rows = min(PONDER_ROWS, len(x))
    taken = torch.zeros(rows, PONDER_STEPS)
    for row in range(rows):
        state = core.initial_state(1)
        for t in range(PONDER_STEPS):
            # The metric is a mean over a call, so each call has one input.
            output = core(x[row : row + 1, t : t + 1], state, reset[row : row + 1, t : t + 1])
            state, taken[row, t] = output.state, output.metrics["ponder_steps"]

    def draw(axes: Axes) -> None:
        picture = axes.imshow(taken.numpy(), aspect="auto", vmin=1, vmax=core.max_ponder_steps, cmap="viridis")
        assert axes.figure is not None
        axes.figure.colorbar(picture, ax=axes, label="ponder steps")
        axes.set_xlabel("step")
        axes.set_ylabel("stream")
        axes.set_title(f"mean {taken.mean():.2f} of at most {core.max_ponder_steps} steps", fontsize=9)

    return draw
