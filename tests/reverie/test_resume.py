"""Resuming on the command line: from a folder, under other options, and what is refused with which words."""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path

import pytest
import soundfile
import torch

from reverie import checkpoint
from reverie.cli import main
from reverie.metrics_file import read_rows
from reverie.run_folder import newest_checkpoint
from tests.audio.synthetic import noise
from tests.reverie.test_refused_commands import CONFIGS, TEXT, digest

RUN = Path("runs/agent")


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text(TEXT)
    for name, text in CONFIGS.items():
        Path(f"{name}.yaml").write_text(text)


def test_a_run_is_continued_from_its_folder_wherever_that_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "agent.yaml", "core.d_model=8"]) == 0
    assert main(["train", "runs/agent"]) == 2
    assert "runs/agent: is a folder; --resume continues the run in it" in capsys.readouterr().err
    assert main(["train", "runs/agent", "--resume", "train.total_steps=128"]) == 0
    assert newest_checkpoint(RUN).step == 128
    RUN.rename("elsewhere")
    assert main(["train", "elsewhere", "train.total_steps=160", "--resume"]) == 0
    assert newest_checkpoint(Path("elsewhere")).step == 160
    assert "runs" not in os.listdir() or os.listdir("runs") == []
    assert main(["train", "elsewhere", "--resume", "run.name=other"]) == 2
    assert "run.name=other: the run is the one in elsewhere" in capsys.readouterr().err
    assert main(["train", "clips", "--resume"]) == 2


def test_a_folder_from_anywhere_runs_no_code_unasked(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["train", "agent.yaml"]) == 0
    Path("planted.py").write_text("raise SystemExit('code ran')")
    config = RUN / "config.yaml"
    config.write_text(config.read_text().replace("envs:TMaze-v0", "planted:TMaze-v0"))
    monkeypatch.setattr("sys.path", [path for path in __import__("sys").path if path != os.getcwd()])
    assert main(["train", "runs/agent", "--resume", "train.total_steps=128"]) == 2
    assert "env.id: imports the module 'planted'" in capsys.readouterr().err


def test_changed_arguments_of_an_environment_are_named_or_refused(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert main(["train", "agent.yaml"]) == 0
    longer = ["train", "agent.yaml", "--resume", "train.total_steps=96", "env.kwargs.length=7"]
    assert main(longer) == 2
    error = capsys.readouterr().err
    assert "env.kwargs.length: the checkpoint has 3, this experiment 7" in error
    assert "--changed-env continues nevertheless" in error
    with caplog.at_level(logging.WARNING):
        assert main([*longer, "--changed-env"]) == 0
    assert "env.kwargs.length: the checkpoint has 3, this experiment 7" in caplog.text
    assert main(["evaluate", "runs/agent", "--episodes", "2"]) == 0
    assert main(["train", "runs/agent", "--resume", "train.total_steps=112"]) == 0
    assert main(["train", "agent.yaml", "--changed-env"]) == 2
    assert main(["train", "text.yaml", "--resume", "--changed-env"]) == 2
    assert "--changed-env: for agents only" in capsys.readouterr().err


def test_the_configuration_in_a_folder_is_that_of_its_checkpoint_or_not_used(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["train", "agent.yaml"]) == 0
    config = RUN / "config.yaml"
    text = config.read_text()
    for old, new, words in (
        ("length: 3", "length: 7", "env.kwargs.length: the checkpoint has 3"),
        ("memory_length: 8", "memory_length: 64", "core.memory_length: the checkpoint has 8"),
    ):
        assert old in text
        config.write_text(text.replace(old, new))
        assert main(["evaluate", "runs/agent", "--episodes", "2"]) == 2
        error = capsys.readouterr().err
        assert "config.yaml: is not what" in error
        assert words in error
    config.write_text(text)
    assert main(["evaluate", "runs/agent", "--episodes", "2"]) == 0


def test_an_optimizer_of_another_kind_is_refused_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "agent.yaml"]) == 0
    assert main(["train", "agent.yaml", "--resume", "train.total_steps=96", "agent.optimizer=rmsprop"]) == 2
    assert "optimizer: the checkpoint has 'adam', this experiment 'rmsprop'" in capsys.readouterr().err
    words = ["agent.optimizer_eps=1e-3", "train.total_steps=96"]
    assert main(["train", "agent.yaml", "--resume", *words]) == 0
    state = newest_checkpoint(RUN).state["trainer"]["learner"]["optimizer"]
    assert state["param_groups"][0]["eps"] == 1e-3


def test_weight_decay_applies_on_resume() -> None:
    assert main(["train", "text.yaml"]) == 0
    assert main(["train", "runs/text", "--resume", "train.weight_decay=0.25", "train.total_tokens=320"]) == 0
    groups = newest_checkpoint(Path("runs/text")).state["trainer"]["optimizer"]["param_groups"]
    assert [group["weight_decay"] for group in groups] == [0.25, 0.0]


def test_a_louder_clip_is_learned_under_the_gain_of_the_checkpoint() -> None:
    for split, count in (("train", 2), ("validation", 1)):
        (Path("clips") / split).mkdir(parents=True)
        for index in range(count):
            soundfile.write(f"clips/{split}/{index}.wav", noise(0.05, 8000, index), 8000)
    assert main(["train", "sound.yaml"]) == 0
    gain = newest_checkpoint(Path("runs/sound")).fingerprint["quantiser"]["gain"]
    soundfile.write("clips/train/0.wav", noise(0.05, 8000, 0) * 1.5, 8000)
    assert main(["train", "sound.yaml", "--resume", "train.total_tokens=320"]) == 2
    longer = ["--resume", "--changed-data", "train.total_tokens=320"]
    assert main(["train", "sound.yaml", *longer]) == 0
    assert newest_checkpoint(Path("runs/sound")).fingerprint["quantiser"]["gain"] == gain
    assert main(["train", "runs/sound", "--resume", "train.total_tokens=384"]) == 0


def test_divergence_of_text_is_exit_code_3_and_its_checkpoints_are_from_before() -> None:
    words = ["train.learning_rate=1e30", "train.max_grad_norm=1e30", "train.checkpoint_interval=1"]
    assert main(["train", "text.yaml", *words, "train.total_tokens=4096"]) == 3
    for folder in checkpoint.folders(Path("runs/text/checkpoints")):
        state = checkpoint.load(folder).state["trainer"]
        assert (state["skipped_updates"], state["skipped_in_a_row"]) == (0, 0)


def test_an_overwrite_checks_everything_before_it_deletes() -> None:
    assert main(["train", "agent.yaml"]) == 0
    before = digest(RUN)
    assert main(["train", "agent.yaml", "--overwrite", "env.id=envs:Nope-v0"]) == 2
    assert digest(RUN) == before
    assert main(["train", "agent.yaml", "--overwrite", "train.total_steps=32"]) == 0
    assert newest_checkpoint(RUN).step == 32


@pytest.mark.parametrize("words", [["env.id=envs:Nope-v0"], ["--resume"], ["train.device=cuda:99"]])
def test_a_refused_start_leaves_no_folder(words: list[str]) -> None:
    assert main(["train", "agent.yaml", "run.root=new/root", *words]) == 2
    assert not Path("new").exists()


def test_a_short_run_has_a_row_and_is_reported_beside_what_is_no_run(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert main(["train", "text.yaml", "train.log_interval=100"]) == 0
    assert [row["step"] for row in read_rows(Path("runs/text/metrics.jsonl"))] == [256]
    Path("runs/curves.png").write_bytes(b"\x89PNG")
    Path("runs/empty").mkdir()
    with caplog.at_level(logging.WARNING):
        assert main(["report", *map(str, sorted(Path("runs").iterdir()))]) == 0
    assert "transformer_xl" in capsys.readouterr().out
    assert "curves.png" in caplog.text
    assert "empty" in caplog.text
    assert main(["report", "runs/empty", "runs/curves.png"]) == 2


def test_checkpoints_of_edited_content_are_skipped_by_resume_and_evaluate(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert main(["train", "text.yaml"]) == 0
    run, root = Path("runs/text"), Path("runs/text/checkpoints")
    whole = newest_checkpoint(run)

    def moments_of_another_shape(state: dict[str, object]) -> None:
        state["optimizer"]["state"][0]["exp_avg"] = torch.zeros(5)  # type: ignore[index]

    def step_in_words(state: dict[str, object]) -> None:
        state["step_count"] = "300"

    def step_of_before(state: dict[str, object]) -> None:
        state["step_count"] = 256

    def no_memory(state: dict[str, object]) -> None:
        state["core_state"] = {}

    edits = (moments_of_another_shape, step_in_words, step_of_before, no_memory)
    for number, edit in enumerate(edits, 300):
        state = newest_checkpoint(run).state
        edit(state["trainer"])
        checkpoint.save(root, number, whole.weights, state, whole.fingerprint, keep=10)
    checkpoint.save(root, 310, whole.weights, {}, whole.fingerprint, keep=10)
    shutil.copytree(whole.path, root / f"{999:012d}")
    with caplog.at_level(logging.WARNING):
        assert main(["train", "text.yaml", "--resume", "train.total_tokens=320"]) == 0
    assert f"resumed from {whole.path.absolute()} at step 256" in capsys.readouterr().err
    for number in (300, 301, 302, 303, 310, 999):
        assert f"{number:012d}" in caplog.text


def test_evaluate_skips_a_checkpoint_without_a_state(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert main(["train", "text.yaml"]) == 0
    whole = newest_checkpoint(Path("runs/text"))
    for number, state in ((300, {}), (301, {"trainer": {}, "window": {}}), (302, {"trainer": 3, "window": {}})):
        checkpoint.save(whole.path.parent, number, whole.weights, state, whole.fingerprint, keep=10)
    state = {**whole.state, "trainer": whole.state["trainer"] | {"step_count": 303}}
    broken = whole.fingerprint | {"vocabulary": {}}
    checkpoint.save(whole.path.parent, 303, whole.weights, state, broken, keep=10)
    capsys.readouterr()
    assert main(["evaluate", "runs/text", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["step"] == 256
    assert all(f"{number:012d}" in caplog.text for number in (300, 301, 302, 303))
