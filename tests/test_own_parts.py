"""docs/own_parts.md says what works: its parts, in a folder outside the project, through its own commands."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import soundfile

from reverie.cli import main
from tests.audio.synthetic import sine
from tests.lm.synthetic import sentences
from tests.test_readme import ROOT, run

PAGE = (ROOT / "docs" / "own_parts.md").read_text()
FILES = re.findall(r"As\s+`(my_package/\w+\.py)`:\n\n```python\n(.*?)```", PAGE, re.DOTALL)
TEST = next(code for code in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "check_laws" in code)
COMMANDS = [shlex.split(line)[1:] for line in re.findall(r"^ {4}(reverie .*)$", PAGE, re.MULTILINE)]
SMALL = {
    "agent": "train.total_steps=512 agent.num_actors=2 agent.min_actors=2 agent.envs_per_actor=2 agent.batch_size=2",
    "text": "train.total_tokens=512 train.learning_rate=0.001 train.batch_size=2",
    "sound": "train.total_tokens=512 train.learning_rate=0.001 train.batch_size=2 train.audio_samples=null",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder outside the project with the package of the page, a text and some clips."""
    (tmp_path / "my_package").mkdir()
    for name, code in FILES:
        (tmp_path / name).write_text(code)
    (tmp_path / "test_leaky.py").write_text(TEST)
    (tmp_path / "my.txt").write_text(sentences(400))
    for speaker in range(20):
        for word in ("yes", "no"):
            (tmp_path / "my_clips" / word).mkdir(parents=True, exist_ok=True)
            clip = sine(300 + 20 * speaker, 0.2, 8_000)
            soundfile.write(tmp_path / "my_clips" / word / f"{speaker:08x}_nohash_0.wav", clip, 8_000)
    return tmp_path


def test_the_page_has_its_files_and_commands() -> None:
    assert [name for name, _ in FILES] == [f"my_package/my_{part}.py" for part in ("core", "encoder", "env")]
    assert [words[0] for words in COMMANDS] == ["list", "train", "train", "train", "evaluate"]
    core = next(code for name, code in FILES if name.endswith("core.py"))
    assert len([line for line in core.splitlines() if line.strip()]) <= 40


@pytest.mark.parametrize("name", SMALL)
def test_a_core_trains_on_every_path(folder: Path, name: str) -> None:
    (command,) = (words for words in COMMANDS if f"run.name={name}" in words)
    # Where the examples' folder of data sets is cached is a matter of the test alone.
    cache = [] if name == "agent" else [f"data.cache={folder / 'cache'}"]
    run(folder, "-m", "reverie", *command, *SMALL[name].split(), "train.log_interval=1", *cache)
    rows = (folder / "runs" / name / "metrics.jsonl").read_text().splitlines()
    assert rows
    if name == "agent":
        (evaluate,) = (words for words in COMMANDS if words[0] == "evaluate")
        printed = run(folder, "-m", "reverie", *evaluate, "--episodes", "2", "--json")
        assert json.loads(printed)["episodes"] == 2


def test_a_core_is_listed_and_held_to_the_laws(folder: Path) -> None:
    (listing,) = (words for words in COMMANDS if words[0] == "list")
    printed = run(folder, "-m", "reverie", *listing)
    assert "decay = 0.9" in printed
    assert "nearer to 1 remembers longer" in " ".join(printed.split())
    run(folder, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_leaky.py")


def test_a_broken_core_is_named_with_its_law(folder: Path) -> None:
    path = folder / "my_package" / "my_core.py"
    path.write_text(path.read_text().replace("if reset is not None:", "if False:"))
    with pytest.raises(AssertionError, match="reset isolation does not hold"):
        run(folder, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_leaky.py")


def test_an_encoder_an_environment_and_a_wrapper(folder: Path) -> None:
    chosen = ["agent.encoder=my_package.my_encoder:Scaled", "env.id=my_package.my_env:make_recall"]
    wrapped = 'env.kwargs={length: 2, wrappers: [{"my_package.my_env:Halved": {}}]}'
    small = ["agent.num_actors=0", "agent.envs_per_actor=2", "agent.batch_size=2", "train.total_steps=256"]
    words = ["train", "rl/demo_memoryless", *chosen, wrapped, "run.name=parts", *small]
    run(folder, "-m", "reverie", *words, "--import", "my_package")
    printed = run(
        folder, "-m", "reverie", "evaluate", "runs/parts", "--import", "my_package", "--episodes", "4", "--json"
    )
    assert json.loads(printed)["mean_return"] <= 0.5  # of at most 1, halved


@pytest.mark.parametrize(
    ("override", "field"),
    [
        ("core={name: 'my_package.my_core:Leaky'}", "core.name"),
        ("agent.encoder=my_package.my_encoder:Scaled", "agent.encoder"),
        ('env.kwargs.wrappers=[{"my_package.my_env:Halved": {}}]', "env.kwargs.wrappers"),
    ],
)
def test_code_is_imported_with_leave_alone(
    override: str, field: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "rl/demo_memoryless", override]) == 2
    message = capsys.readouterr().err
    assert f"{field}: imports the module 'my_package.my_" in message
    assert "add --import my_package" in message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["core={name: 'json:JSONDecoder'}"], "expected a subclass of memory_cores.MemoryCore"),
        (["core={name: 'json:Nothing'}"], "has no attribute 'Nothing'"),
        (["agent.encoder=json:JSONDecoder"], "expected a subclass of agents.encoders.Encoder"),
        (['env.kwargs.wrappers=[{"json:JSONDecoder": {}}]'], "expected a subclass of gymnasium.Wrapper"),
        (["env.id=json:dumps", "env.kwargs={}"], "missing 1 required positional argument"),
        (["env.id=json:loads", "env.kwargs={s: '1'}"], "made int, expected a gymnasium.Env"),
        (["agent.encoder=json:JSONDecoder", "agent.normalize_observations=true"], "is to normalise by itself"),
    ],
)
def test_what_is_no_part_gets_a_clear_error(
    overrides: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "rl/demo_memoryless", "agent.num_actors=0", *overrides, "--import", "json"]) == 2
    assert message in capsys.readouterr().err
