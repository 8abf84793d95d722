"""docs/own_parts.md says what works: its parts, in a folder outside the project, through its own commands."""

from __future__ import annotations

import importlib
import json
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import soundfile

from memory_cores.testing import LawError
from reverie.cli import main
from tests.audio.synthetic import sine
from tests.lm.synthetic import sentences
from tests.test_readme import ROOT, run

PAGE = (ROOT / "docs" / "own_parts.md").read_text()
FILES = re.findall(r"As\s+`(my_package/\w+\.py)`:\n\n```python\n(.*?)```", PAGE, re.DOTALL)
TEST = next(code for code in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "check_laws" in code)
COMMANDS = [shlex.split(line)[1:] for line in re.findall(r"^ {4}(reverie .*)$", PAGE, re.MULTILINE)]
SMALL = {
    "agent": "train.total_steps=512 agent.num_actors=1 agent.min_actors=1 agent.envs_per_actor=2 agent.batch_size=2",
    "text": "train.total_tokens=512 train.learning_rate=0.001 train.batch_size=2",
    "sound": "train.total_tokens=512 train.learning_rate=0.001 train.batch_size=2 train.audio_samples=null",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder outside the project with the package of the page, a text and some clips; this process stands in it."""
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
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] in ("my_package", "test_leaky")]:
        del sys.modules[name]


def hold_to_the_laws() -> None:
    """Run the test of the page."""
    importlib.import_module("test_leaky").test_leaky()


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
    train = [*command, *SMALL[name].split(), "train.log_interval=1", *cache]
    if name == "agent":
        (evaluate,) = (words for words in COMMANDS if words[0] == "evaluate")
        evaluate = [*evaluate, "--episodes", "2", "--json"]
        program = f"import sys; from reverie.cli import main; sys.exit(main({train}) or main({evaluate}))"
        assert json.loads(run(folder, "-c", program))["episodes"] == 2
    else:
        assert main(train) == 0
    assert (folder / "runs" / name / "metrics.jsonl").read_text()


@pytest.mark.usefixtures("folder")
def test_a_core_is_listed_and_held_to_the_laws(capsys: pytest.CaptureFixture[str]) -> None:
    (listing,) = (words for words in COMMANDS if words[0] == "list")
    assert main(listing) == 0
    printed = capsys.readouterr().out
    assert "decay = 0.9" in printed
    assert "nearer to 1 remembers longer" in " ".join(printed.split())
    hold_to_the_laws()


def test_a_broken_core_is_named_with_its_law(folder: Path) -> None:
    path = folder / "my_package" / "my_core.py"
    path.write_text(path.read_text().replace("if reset is not None:", "if False:"))
    with pytest.raises(LawError, match="reset isolation does not hold"):
        hold_to_the_laws()


@pytest.mark.usefixtures("folder")
def test_an_encoder_an_environment_and_a_wrapper(capsys: pytest.CaptureFixture[str]) -> None:
    chosen = ["agent.encoder=my_package.my_encoder:Scaled", "env.id=my_package.my_env:make_recall"]
    wrapped = 'env.kwargs={length: 2, wrappers: [{"my_package.my_env:Halved": {}}]}'
    small = ["agent.num_actors=0", "agent.envs_per_actor=2", "agent.batch_size=2", "train.total_steps=256"]
    words = ["train", "rl/demo_memoryless", *chosen, wrapped, "run.name=parts", *small]
    assert main([*words, "--import", "my_package"]) == 0
    capsys.readouterr()
    assert main(["evaluate", "runs/parts", "--import", "my_package", "--episodes", "4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["mean_return"] <= 0.5  # of at most 1, halved


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
