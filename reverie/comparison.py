"""Comparing the models of two runs, on the command line."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from lm.comparison import Comparison, compare
from reverie.checkpoint import Checkpoint
from reverie.path_interface import PathInterface
from reverie.tables import format_interval, print_table
from reverie.texts import read_texts
from training.device import require_device
from training.errors import UserError

MAX_LISTED = 20
"""Documents of which each has a row; of more, only `--json` lists them."""

Chosen = tuple[Path, PathInterface[Any], Any, Checkpoint]
"""A run with its path, its configuration and one of its checkpoints."""


def print_comparison(chosen: Sequence[Chosen], arguments: argparse.Namespace) -> None:
    """Score two runs on the same documents and print the difference, with `--json` as one JSON object.

    Raises UserError where the runs are of different paths, or their figures cannot be compared.
    """
    (first, path, *_), (second, other, *_) = chosen
    if path is not other:
        raise UserError(f"{first} trains {path.name}, {second} {other.name}: their figures cannot be compared")
    units = [path.unit(run, config, checkpoint) for run, _, config, checkpoint in chosen]
    if units[0] != units[1]:
        raise UserError(f"{first} is measured in {units[0]}, {second} in {units[1]}: their figures cannot be compared")
    texts = read_texts(arguments.text) if arguments.text else None
    scores = []
    for _, _, config, checkpoint in chosen:
        require_device(config.train.device)
        torch.set_num_threads(config.train.num_threads)
        scores.append(path.document_scores(checkpoint, config, units[0], arguments.split or "validation", texts))
    result = compare(scores[0], scores[1], [str(first), str(second)])
    runs = [{"run": str(run), "step": checkpoint.step} for run, _, _, checkpoint in chosen]
    if arguments.json:
        print(json.dumps({"runs": runs, "first_is_better": result.first_is_better, **dataclasses.asdict(result)}))
        return
    _print_table([f"{entry['run']} at step {entry['step']:,}" for entry in runs], result)


def _print_table(titles: Sequence[str], result: Comparison) -> None:
    difference = [f"{result.difference:+.4f}", format_interval(result.interval)]
    print_table(
        [
            ["", result.unit, "95 % interval"],
            [titles[0], f"{result.first:.4f}", ""],
            [titles[1], f"{result.second:.4f}", ""],
            ["the first less the second", *difference],
        ]
    )
    count = len(result.documents)
    print(f"the first needs less in {result.first_is_better:,} of {count:,} documents")
    if 1 < count <= MAX_LISTED:
        figures = [
            [document.name, f"{document.first:.4f}", f"{document.second:.4f}", f"{document.difference:+.4f}"]
            for document in result.documents
        ]
        print_table([["", "the first", "the second", "difference"], *figures])
