"""Runs that benchmarks train and score by the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def printed(*command: str) -> str:
    """What a command of this Python prints; what it reports of its progress goes where it always does."""
    done = subprocess.run([sys.executable, *command], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {done.returncode}")
    return done.stdout


def train(config: str, run: Path, overrides: Sequence[str]) -> float:
    """Train a configuration anew in a run folder; returns the seconds that it took."""
    placed = (f"run.name={run.name}", f"run.root={run.parent}")
    printed("-m", "reverie", "train", config, "--overwrite", *overrides, *placed)
    rows = (run / "metrics.jsonl").read_text().splitlines()
    if not rows:
        raise SystemExit(f"{run}: no row of metrics; expected a run of at least train.log_interval updates")
    return float(json.loads(rows[-1])["seconds"])


def score(run: Path, *options: str) -> dict[str, Any]:
    """The figures of `reverie evaluate`."""
    figures: dict[str, Any] = json.loads(printed("-m", "reverie", "evaluate", str(run), *options, "--json"))
    return figures
