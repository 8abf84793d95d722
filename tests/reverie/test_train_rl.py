"""The command line on real training: exact resume after a kill, metrics as documented, evaluation, report."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from reverie import checkpoint
from reverie.cli import main
from reverie.metrics_file import read_rows
from tests.equality import same
from training import progress

ROOT = Path(__file__).parents[2]
CONFIG = """
env: {id: "envs:TMaze-v0", kwargs: {length: 3}}
core: {name: lstm, d_model: 16}
agent: {num_actors: 0, envs_per_actor: 4, batch_size: 4, unroll_length: 8, encoder_width: 16}
train: {total_steps: 3000, checkpoint_interval: 10, log_interval: 5}
run: {name: run}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "experiment.yaml"
    path.write_text(CONFIG)
    return path


def last_checkpoint(run: Path) -> checkpoint.Checkpoint:
    found, skipped = checkpoint.newest(run / "checkpoints")
    assert found is not None
    assert not skipped
    return found


def test_a_killed_run_resumes_bitwise(tmp_path: Path, config: Path) -> None:
    """With one core: every core's state is resumed in agents/test_trainer.py."""
    arguments = ["train", str(config), "agent.unroll_length=16", f"run.root={tmp_path}"]
    assert main([*arguments, "run.name=whole"]) == 0

    process = subprocess.Popen(
        [sys.executable, "-m", "reverie", *arguments, "run.name=killed"], cwd=ROOT, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not checkpoint.folders(tmp_path / "killed" / "checkpoints"):
        assert process.poll() is None, "ended before its first checkpoint was seen"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert last_checkpoint(tmp_path / "killed").step < 3000

    assert main([*arguments, "run.name=killed", "--resume"]) == 0
    whole, killed = (last_checkpoint(tmp_path / name) for name in ("whole", "killed"))
    assert killed.step == whole.step
    assert same(killed.weights, whole.weights)
    assert same(killed.state, whole.state)


def test_a_run_emits_exactly_the_documented_metrics(tmp_path: Path, config: Path) -> None:
    section = (ROOT / "docs/metrics.md").read_text().partition("## Agents")[2].partition("\n## ")[0]
    first_cells = "".join(line.split("|")[1] for line in section.splitlines() if line.startswith("| `"))
    documented = set(re.findall(r"`([a-z]+/[a-z_]+)`", first_cells))
    evaluation = ["train.evaluation_interval=2", "train.evaluation_episodes=2"]
    assert main(["train", str(config), *evaluation, f"run.root={tmp_path}"]) == 0
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == documented
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert {key for key in rows[-1] if "/" in key} == documented


def test_evaluate_and_report(
    tmp_path: Path, config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [str(config), f"run.root={tmp_path}", "train.evaluation_interval=24"]
    for seed in (1, 2):
        assert main(["train", *words, f"run.name=s{seed}", f"train.seed={seed}"]) == 0
    capsys.readouterr()
    video = tmp_path / "first.gif"
    run = str(tmp_path / "s1")
    assert main(["evaluate", run, "--episodes", "40", "--json", "--video", str(video)]) == 0
    evaluation = json.loads(capsys.readouterr().out)
    assert evaluation["episodes"] == 40
    assert evaluation["return_interval"][0] <= evaluation["mean_return"] <= evaluation["return_interval"][1]
    assert 0 <= evaluation["success_rate"] <= 1
    assert video.read_bytes()[:3] == b"GIF"
    assert main(["evaluate", run, "--episodes", "40", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == evaluation

    monkeypatch.setattr(progress, "QUIET", 0.0)
    monkeypatch.setattr(progress, "PLAIN_INTERVAL", 0.0)
    monkeypatch.setattr(progress.ProgressLine, "_next_plain_line", 0.0)
    assert main(["evaluate", run, "--episodes", "5", "--envs", "2", "--max-steps", "2", "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["cut_episodes"] == 5
    assert "/ 5 episodes" in printed.err
    assert main(["evaluate", run, "--video", str(tmp_path / "absent" / "first.gif")]) == 2
    assert "there is no folder" in capsys.readouterr().err

    rows = read_rows(tmp_path / "s1" / "metrics.jsonl")
    returns = {row["step"]: row["evaluation/return"] for row in rows if "evaluation/return" in row}
    best = checkpoint.best(tmp_path / "s1" / "checkpoints")[0]
    assert best is not None
    assert best.score is not None
    assert best.score.value == max(returns.values())
    assert main(["evaluate", run, "--checkpoint", "best", "--episodes", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["step"] == best.step

    picture = tmp_path / "curves.png"
    assert main(["report", run, str(tmp_path / "s2"), "--output", str(picture)]) == 0
    assert picture.read_bytes()[:4] == b"\x89PNG"


def test_a_thread_can_train(config: Path, tmp_path: Path) -> None:
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(main(["train", str(config), f"run.root={tmp_path}"])))
    thread.start()
    thread.join()
    assert codes == [0]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("agent.encoder=deep", "encoder: deep: expected an image in the observation space"),
        ("env.id=tests.agents.faulty_envs:make_empty", "observation_space is a Box of shape (0,)"),
    ],
)
def test_observations_that_do_not_fit_are_one_message(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], override: str, message: str
) -> None:
    kwargs = "env.kwargs={}" if "env.id" in override else "env.kwargs={length: 3}"
    words = [override, kwargs, f"run.root={tmp_path}"]
    assert main(["train", str(config), *words]) == 2
    assert message in capsys.readouterr().err
