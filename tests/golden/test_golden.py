"""Every core on every path still learns as it did: its losses over the first updates are the golden ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import memory_cores
from tests.golden.runs import LOSSES, RUNS, UPDATES, run, run_name

GOLDEN: dict[str, list[float]] = {name: losses[:UPDATES] for name, losses in json.loads(LOSSES.read_text()).items()}
TOLERANCE = 1e-4
"""Relative: processors sum in other orders, and updates multiply the difference."""


@pytest.mark.parametrize(("path", "core", "variant"), RUNS, ids=lambda part: str(part))
def test_losses_are_the_golden_ones(path: str, core: str, variant: int, tmp_path: Path) -> None:
    expected = pytest.approx(GOLDEN[run_name(path, core, variant)], rel=TOLERANCE, abs=1e-6)
    assert run(path, core, variant, tmp_path) == expected


def test_every_core_has_its_golden_runs() -> None:
    assert {core for _, core, _ in RUNS} == set(memory_cores.names())
    assert set(GOLDEN) == {run_name(*key) for key in RUNS}
