"""Evaluation of several variants of one configuration, and the tables their results are printed in."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

import audio.config
import lm.config
from reverie.checkpoint import Checkpoint
from reverie.path_interface import Variants
from training.device import require_device
from training.errors import UserError
from training.printable import printable

AS_TRAINED = "as trained"
SAME_DATA = {"data.cache", "data.words", "data.origin"}
"""Fields of the section that choose no other data."""
READ_BY_EVALUATION = ("train.batch_size", "train.device", "train.num_threads")
"""What an evaluation reads of the sections `train` and `run`; it computes in float32."""

Config = TypeVar("Config", bound=lm.config.ExperimentConfig | audio.config.ExperimentConfig)
Result = TypeVar("Result")


def combinations(overrides: Sequence[str]) -> list[list[str]]:
    """The overrides with one value each: `a=1,2` and `b=3` are [a=1, b=3] and [a=2, b=3]; brackets stay whole."""
    alternatives = []
    for override in overrides:
        key, _, text = override.partition("=")
        values = text.split(",") if not set(text) & set("[{\"'") else [text]
        alternatives.append([f"{key}={value}" for value in values] if len(values) > 1 else [override])
    return [list(words) for words in itertools.product(*alternatives)]


def evaluate_variants(
    run: Path,
    step: int,
    variants: Variants[Config],
    score: Callable[[Config], Result],
    figures_of: Callable[[Result], Mapping[str, Any]],
    as_json: bool,
) -> list[tuple[str, Result]]:
    """Score the variants of a configuration one by one; returns each result with the label of its row.

    With `as_json`, each result is printed as one JSON object as soon as it is known.
    Raises UserError where an override changes nothing in an evaluation or a device is missing, before the first,
    perhaps long, evaluation.
    """
    refuse_idle_overrides(run, [words for words, _ in variants])
    for _, config in variants:
        require_device(config.train.device)
    torch.set_num_threads(variants[0][1].train.num_threads)
    results = []
    for overrides, config in variants:
        result = score(config)
        if as_json:
            row = {"run": str(run), "step": step, "overrides": overrides, **figures_of(result)}
            print(json.dumps(row), flush=True)
        results.append((" ".join(overrides) or AS_TRAINED, result))
    return results


def names_data(overrides: Sequence[str]) -> bool:
    """Whether overrides choose other data than a run's own."""
    keys = {override.partition("=")[0] for override in overrides}
    return any(key == "data" or key.startswith("data.") for key in keys - SAME_DATA)


def require_same_data(sha256: str, checkpoint: Checkpoint, path: str) -> None:
    """Raise UserError unless the data at `path`, with this hash, are those that a checkpoint was trained on."""
    trained = checkpoint.fingerprint["data"]["sha256"]
    if sha256 != trained:
        raise UserError(
            f"{path}: is not the data that {checkpoint.path} was trained on (SHA-256 {sha256[:12]}..., then "
            f"{trained[:12]}...); evaluate with data.path={path} scores it nevertheless"
        )


def refuse_idle_overrides(run: Path, choices: Sequence[Sequence[str]]) -> None:
    """Raise UserError for overrides of fields that an evaluation does not read."""
    keys = dict.fromkeys(word.partition("=")[0] for words in choices for word in words)
    idle = [key for key in keys if key.partition(".")[0] in ("train", "run") and key not in READ_BY_EVALUATION]
    if idle:
        raise UserError(
            f"{run}: {', '.join(idle)}: changes nothing in an evaluation, which reads core, data, model and "
            f"{', '.join(READ_BY_EVALUATION)}"
        )


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows of cells in columns, indented by two spaces."""
    for line in align(rows):
        print(f"  {line}")


def align(rows: Sequence[Sequence[str]]) -> list[str]:
    """One line of text a row, with the cells of each column equally wide."""
    shown = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in shown]


def format_number(value: float | None, form: str) -> str:
    """A number in a format such as `.4f`; None is a dash."""
    return "-" if value is None else format(value, form)


def format_interval(interval: tuple[float, float] | None) -> str:
    """Two bounds with four decimals; None is a dash."""
    return "-" if interval is None else f"{interval[0]:.4f} to {interval[1]:.4f}"


def require_writable(option: str, path: Path | None) -> None:
    """Raise UserError, before anything is scored, where the file that an option names could not be written."""
    if path is not None and (path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK)):
        raise UserError(f"{option}: {path}: cannot be written")
