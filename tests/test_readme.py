"""The README says what works: its Python runs, its commands parse and name what there is, its links lead somewhere."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from reverie.arguments import make_parser
from reverie.cli import main
from reverie.experiment import load_experiment
from reverie.shipped_configs import find_config, shipped_configs

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
FENCED = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
PYTHON = FENCED.findall(README)
SHELL = [
    shlex.split(line, comments=True)
    for block in re.findall(r"(?<=\n\n)(?: {4}.+\n)+", FENCED.sub("", README))
    for line in block.replace("\\\n", " ").splitlines()
]
REVERIE = [words[1:] for words in SHELL if words[0] == ".venv/bin/reverie"]
DOCUMENTS = [
    *ROOT.glob("*.md"),
    *(path for folder in ("docs", "benchmarks") for path in (ROOT / folder).rglob("*.md")),
]


def run(folder: Path, *arguments: str) -> str:
    """What Python prints in a folder, which must succeed."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr + result.stdout
    return result.stdout


@pytest.mark.parametrize("code", PYTHON, ids=lambda code: code.splitlines()[0])
def test_python_runs(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "example.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    runpy.run_path("example.py", run_name="__main__")


def test_an_own_environment_is_trained_on_and_played(tmp_path: Path) -> None:
    """By the README's own commands, one after the other in one process, at a few hundred steps."""
    (code,) = (code for code in PYTHON if "gym.Env" in code)
    (tmp_path / "recall.py").write_text(code)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    train, evaluate = (words for words in REVERIE if any("recall" in word for word in words))
    train = [re.sub(r"(?<=^train.total_steps=)\d+", "512", word) for word in train]
    train = [*train, "agent.num_actors=0", "agent.envs_per_actor=2", "agent.batch_size=2"]
    evaluate = [*evaluate, "--episodes", "2"]
    program = f"import sys; from reverie.cli import main; sys.exit(main({train}) or main({evaluate}))"
    assert "success" in run(tmp_path, "-c", program)


@pytest.mark.parametrize("words", SHELL, ids=" ".join)
def test_programs_are_known(words: list[str]) -> None:
    """Each program that the README calls is checked by a test, or is not this project's."""
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    else:
        assert words[0] in (".venv/bin/reverie", ".venv/bin/tensorboard", "curl")


@pytest.mark.parametrize("words", REVERIE, ids=" ".join)
def test_commands_parse_and_name_what_there_is(words: list[str]) -> None:
    arguments, rest = make_parser().parse_known_args(words)
    overrides = [*getattr(arguments, "overrides", []), *rest]
    assert all("=" in word for word in overrides)
    if arguments.command == "train":
        load_experiment(find_config(arguments.config), overrides)
        return
    runs = [arguments.run] if hasattr(arguments, "run") else getattr(arguments, "runs", [])
    configs = {path.stem: path for path in shipped_configs().values()}
    named = {word.removeprefix("run.name=") for other in REVERIE for word in other if word.startswith("run.name=")}
    for folder in runs:
        assert folder.name in {*configs, *named}
        for word in overrides:  # a comma parts values that are each evaluated
            key, _, values = word.partition("=")
            for value in values.split(","):
                load_experiment(configs[folder.name], [f"{key}={value}"])


def test_lists_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    (words,) = (words for words in REVERIE if words[0] == "list")
    assert main(words) == 0
    assert "transformer_xl" in capsys.readouterr().out


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_documents_name_files_that_there_are(path: Path) -> None:
    """Links of all documents, and the modules of the benchmarks and examples that they run."""
    text = path.read_text()
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (path.parent / target).exists(), target
    for module in re.findall(r"python -m ((?:benchmarks|tests)[.\w]+)", text):
        assert (ROOT / module.replace(".", "/")).with_suffix(".py").exists(), module
    for script in re.findall(r"python ((?:examples|benchmarks)/\S+\.py)", text):
        assert (ROOT / script).exists(), script
