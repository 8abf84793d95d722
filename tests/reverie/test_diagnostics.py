"""The picture of a core at work, from runs of agents and of language models."""

from __future__ import annotations

from pathlib import Path

import matplotlib.image
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from reverie.cli import main

AGENT = """
env: {id: "envs:TMaze-v0", kwargs: {length: 3}}
core: {name: lstm, d_model: 16}
agent: {num_actors: 0, envs_per_actor: 4, batch_size: 4, unroll_length: 8, encoder_width: 16}
train: {total_steps: 64}
run: {name: run}
"""
TEXT = """
data: {path: text.txt, cache: cache}
core: {name: lstm, d_model: 16}
train: {total_tokens: 256, batch_size: 4, segment_length: 8, evaluation_interval: 1000}
run: {name: run}
"""
CORES = {
    "transformer_xl": ["core.memory_length=8", "core.granularity=4"],
    "compressive": ["core.memory_length=8", "core.compressed_length=4", "core.granularity=8"],
    "evolved": ["core.memory_length=8", "core.granularity=4"],
    "infinity": ["core.memory_length=8", "core.granularity=4", "core.num_basis=8", "core.sticky=true"],
    "universal": ["core.memory_length=8", "core.max_ponder_steps=3"],
    "lstm": ["core.halting=graves"],
}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("The maze remembers every turn.\n" * 200)


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("experiment", [AGENT, TEXT], ids=["agent", "text"])
def test_the_core_of_a_run_is_drawn(core: str, experiment: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("experiment.yaml").write_text(experiment)
    assert main(["train", "experiment.yaml", f"core.name={core}", *CORES[core]]) == 0
    assert main(["report", "--attention", "runs/run", "--output", "core.png"]) == 0
    assert "drawn to core.png" in capsys.readouterr().out
    height, width, _ = matplotlib.image.imread("core.png").shape
    panels = 2 if core in ("compressive", "infinity") else 1
    assert width == pytest.approx(panels * 6.4 * 150, abs=2)
    events = EventAccumulator("runs/run/tensorboard", size_guidance={"images": 0}).Reload()
    (image,) = events.Images("inside/core")
    assert (image.height, image.width) == (height, width)


def test_what_cannot_be_drawn_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    Path("experiment.yaml").write_text(AGENT)
    assert main(["train", "experiment.yaml"]) == 0
    capsys.readouterr()
    assert main(["report", "--attention", "runs/run"]) == 2
    assert "the core 'lstm' neither attends to a memory nor ponders" in capsys.readouterr().err
    assert main(["report", "--attention", "runs/run", "runs/run"]) == 2
    assert "--attention: expected one run" in capsys.readouterr().err
    assert main(["report", "--attention", "nowhere"]) == 2
    assert "nowhere" in capsys.readouterr().err
