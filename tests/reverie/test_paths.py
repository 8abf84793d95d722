"""The three paths: which one an experiment is of, and which options each takes."""

from __future__ import annotations

from pathlib import Path

import pytest

import lm.config
from reverie.arguments import make_parser
from reverie.cli import main
from reverie.experiment import load_experiment
from reverie.paths import PATHS, path_of, refuse_options
from reverie.shipped_configs import find_config
from training.errors import UserError

WORDS = {
    "train": ["train", "experiment.yaml"],
    "evaluate": ["evaluate", "run"],
    "compare": ["compare", "run", "run"],
    "generate": ["generate", "run"],
    "report": ["report", "run", "--attention"],
}
AGENT = """
env: {id: "envs:TMaze-v0", kwargs: {length: 3}}
core: {name: lstm, d_model: 16}
agent: {num_actors: 0, envs_per_actor: 4, batch_size: 4, unroll_length: 8, encoder_width: 16}
train: {total_steps: 64}
run: {name: run}
"""
TASK = """
data: {task: copy, length: 4, symbols: 4, train_sequences: 20, validation_sequences: 4, test_sequences: 4}
core: {name: lstm, d_model: 16}
train: {total_tokens: 256, batch_size: 4, segment_length: 8}
run: {name: run}
"""


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("rl/demo_gtrxl", ("agents", "rl")),
        ("text/copy", ("models of text", "lm")),
        ("audio/sc09", ("models of audio", "audio")),
    ],
)
def test_an_experiment_has_one_path(name: str, expected: tuple[str, str]) -> None:
    path = path_of(load_experiment(find_config(name)))
    assert (path.name, path.fingerprint) == expected


def test_a_synthetic_task_is_of_the_text_path(tmp_path: Path) -> None:
    (tmp_path / "task.yaml").write_text(TASK)
    config = load_experiment(tmp_path / "task.yaml")
    assert isinstance(config, lm.config.ExperimentConfig)
    assert path_of(config).subject(config) == "copy"
    assert path_of(config).batch(config)[:4] == ("train.batch_size", 4, "train.segment_length", 8)


def test_every_declared_option_is_one_of_its_command() -> None:
    for path in PATHS:
        for command, options in path.options.items():
            assert options <= set(vars(make_parser().parse_args(WORDS[command])))


@pytest.mark.parametrize(
    ("words", "path", "refusal"),
    [
        (["train", "x.yaml", "--address", "auto"], 1, "where: --address: for agents only"),
        (["evaluate", "x", "--seed", "0"], 2, "where: --seed: for agents only"),
        (
            ["evaluate", "x", "a=1", "--split", "test", "--by-frequency"],
            0,
            "where: key=value, --split: for models of text and models of audio only; "
            "--by-frequency: for models of text only",
        ),
        (["generate", "x", "--tokens", "3"], 2, "where: --tokens: for models of text only"),
    ],
)
def test_options_of_other_paths_are_refused_with_the_paths_that_take_them(
    words: list[str], path: int, refusal: str
) -> None:
    with pytest.raises(UserError) as caught:
        refuse_options(PATHS[path], make_parser().parse_args(words), "where")
    assert str(caught.value) == refusal


def test_options_of_the_path_and_options_not_given_pass() -> None:
    for path in PATHS:
        for words in WORDS.values():
            refuse_options(path, make_parser().parse_args(words), "where")
    refuse_options(PATHS[0], make_parser().parse_args(["evaluate", "x", "--seed", "0", "--greedy"]), "where")


def test_an_agent_does_not_generate_and_keeps_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("agent.yaml").write_text(AGENT)
    Path("task.yaml").write_text(TASK)
    assert main(["train", "agent.yaml"]) == 0
    assert main(["train", "task.yaml", "--address", "auto"]) == 2
    assert not Path("runs/task").exists()
    assert main(["train", "task.yaml", "run.name=task"]) == 0
    capsys.readouterr()
    assert main(["generate", "runs/run"]) == 2
    assert "runs/run: trains an agent" in capsys.readouterr().err
    # The checkpoint is another path's than the configuration beside it.
    Path("runs/run/config.yaml").write_text(TASK)
    assert main(["evaluate", "runs/run"]) == 2
    assert "is not a checkpoint of models of text" in capsys.readouterr().err
    words = ["data={path: x, layout: folder, sample_rate: 8000}", "model={}"]
    assert main(["evaluate", "runs/task", *words]) == 2
    assert f"trains models of text; with {' '.join(words)} it would train models of audio" in capsys.readouterr().err
