"""The command line: mistakes are one message and exit code 2; runs go through."""

import base64
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from reverie import cli
from reverie.cli import main
from reverie.own_packages import OUR_PACKAGES, check_packages
from training.errors import UserError

REPOSITORY = Path(__file__).parents[2]
TINY = """\
env: {id: "envs:TMaze-v0"}
core: {name: lstm, d_model: 8}
agent: {num_actors: 0, envs_per_actor: 2, batch_size: 2, unroll_length: 8, encoder_width: 8}
train: {total_steps: 64, log_interval: 1, checkpoint_interval: 2, keep_checkpoints: 2}
run: {name: tiny}
"""


@pytest.fixture
def experiment(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return str(path)


def test_a_run_is_trained_resumed_evaluated_and_reported(experiment, capsys):
    assert main(["train", experiment]) == 0
    assert main(["train", experiment]) == 2
    assert "--resume continues it" in capsys.readouterr().err
    assert main(["train", experiment, "--resume", "train.total_steps=128"]) == 0
    error = capsys.readouterr().err
    assert "resumed from" in error
    assert "observation: vector of 4, unscaled" in error
    assert "128 / 128 steps" in error
    assert main(["evaluate", "runs/tiny", "--episodes", "3", "--json", "--seed", "5"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["episodes"], result["seed"], result["step"]) == (3, 5, 128)
    assert main(["evaluate", "runs/tiny", "--episodes", "3", "--greedy"]) == 0
    assert "mean return" in capsys.readouterr().out
    assert main(["report", "runs/tiny"]) == 0
    assert Path("report.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "absent.yaml"], "absent.yaml: cannot be read: No such file"),
        (["train", "tiny.yaml", "core.d_modl=3", "run.name=../x"], "did you mean d_model"),
        (["train", "tiny.yaml", "--resume"], "holds no run to resume"),
        (["train", "tiny.yaml", "env.id=envs:TMaz-v0"], "TMaz-v0"),
        (["train", "tiny.yaml", "env.id=no_such_module:X-v0"], "no_such_module"),
        (["evaluate", "absent"], "config.yaml: cannot be read"),
        (["report", "absent"], "cannot be read"),
    ],
)
def test_a_mistake_is_one_message_and_exit_code_2(experiment, capsys, arguments, words):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.splitlines()[-1].startswith("error: ") or "error: " in error
    assert words in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    "arguments",
    [[], ["train"], ["nonsense"], ["train", "x.yaml", "--resume", "--overwrite"],
     ["train", "x.yaml", "--nonsense"], ["evaluate", "x", "--episodes", "0"],
     ["evaluate", "x", "--seed", "-1"], ["report", "x", "--y=1"], ["evaluate", "x", "--video", "a.txt"],
     ["list", "cores", "lstm", "y=1"], ["generate", "x", "--top-p", "0"], ["generate", "x", "--temperature", "nan"],
     ["list", "x"], ["evaluate", "x", "--episodes", "9" * 5000]],
)  # fmt: skip
def test_arguments_that_make_no_sense_exit_with_code_2(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2


def test_a_run_folder_does_not_choose_what_is_imported(experiment, capsys):
    run = Path("runs/evil")
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(TINY.replace("envs:TMaze-v0", "antigravity:X-v0"))
    assert main(["evaluate", str(run)]) == 2
    assert "--import antigravity" in capsys.readouterr().err
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize(
    ("env_id", "kwargs", "module"),
    [
        ("VizdoomBasic-v0", "{vizdoom_path: /bin/ls}", "vizdoom"),
        ("ALE/Pong-v5", "{game: pong}", "ale_py"),
        ("GymV26Environment", "{env_id: x}", "gymnasium"),
        ("CartPole-v1", "{wrappers: {antigravity:Wrapper: {}}}", "antigravity"),
        ("CartPole-v1", "{wrappers: [{RecordVideo: {video_folder: elsewhere}}]}", "gymnasium"),
    ],
)
def test_a_run_folder_does_not_choose_what_a_module_does(experiment, capsys, env_id, kwargs, module):
    run = Path("runs/evil")
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(TINY.replace('"envs:TMaze-v0"', f"{env_id}, kwargs: {kwargs}"))
    assert main(["evaluate", str(run)]) == 2
    assert f"--import {module}\n" in capsys.readouterr().err
    assert main(["train", str(run), "--resume"]) == 2
    assert f"--import {module}\n" in capsys.readouterr().err
    assert main(["evaluate", str(run), "--import", module]) == 2
    assert "holds no checkpoint" in capsys.readouterr().err


def test_a_file_in_the_working_folder_stands_in_for_no_library(tmp_path):
    for name in ("argparse", "yaml", "pydantic"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('not the library')")
    command = [sys.executable, "-m", "reverie", "list", "configs"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_file_in_the_working_folder_does_not_choose_where_compiled_code_comes_from(monkeypatch):
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    assert main(["list", "configs"]) == 0
    assert os.environ["NUMBA_CACHE_DIR"] == ""  # which Numba takes before its .numba_config.yaml


def test_arguments_of_our_own_and_of_gymnasiums_environments_need_no_leave(experiment, capsys):
    run = Path("runs/mine")
    run.mkdir(parents=True)
    for env_id, kwargs in (("envs:TMaze-v0", "{length: 3}"), ("CartPole-v1", "{sutton_barto_reward: true}")):
        (run / "config.yaml").write_text(TINY.replace('"envs:TMaze-v0"', f'"{env_id}", kwargs: {kwargs}'))
        assert main(["evaluate", str(run)]) == 2
        assert "holds no checkpoint" in capsys.readouterr().err


def test_what_a_file_says_cannot_steer_the_terminal(experiment, capsys):
    Path("evil.yaml").write_text('"\\e[2J\\u202ekey": 1\ncore: {name: "\\e[31m"}\n')
    assert main(["train", "evil.yaml"]) == 2
    error = capsys.readouterr().err
    assert "\\x1b[2J\\u202ekey" in error
    assert "\x1b" not in error


@pytest.mark.parametrize("name", ["config.yaml", "metrics.jsonl"])
def test_what_is_no_file_in_a_run_is_one_error_and_not_waited_for(experiment, capsys, name):
    assert main(["train", experiment]) == 0
    path = Path("runs/tiny") / name
    path.unlink()
    os.mkfifo(path)
    commands = [["train", "runs/tiny", "--resume"], ["report", "runs/tiny"]]
    for words in [*commands, ["evaluate", "runs/tiny"]] if name == "config.yaml" else commands:
        assert main(words) == 2, words
        assert f"{name}: " in (error := capsys.readouterr().err)
        assert "is not a regular file but a pipe" in error


def test_a_working_folder_that_is_gone_is_one_error(tmp_path, monkeypatch, capsys):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert main(["train", "rl/tmaze_lstm"]) == 2
    assert capsys.readouterr().err.startswith("error: the working folder cannot be used: No such file or directory; ")


def install(home, name, *files):
    """Files of a distribution, and the record of them."""
    record = [f"{name}-1.0.dist-info/METADATA,,", f"{name}-1.0.dist-info/RECORD,,"]
    for file in files:
        (home / file).parent.mkdir(parents=True, exist_ok=True)
        (home / file).write_text(f"# {name}")
        digest = base64.urlsafe_b64encode(hashlib.sha256(f"# {name}".encode()).digest()).rstrip(b"=").decode()
        record.append(f"{file},sha256={digest},{len(name) + 2}")
    info = home / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "RECORD").write_text("\n".join(record) + "\n")


def import_from(home, monkeypatch):
    monkeypatch.syspath_prepend(home)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: SimpleNamespace(origin=home / name / "__init__.py"))


@pytest.mark.parametrize(
    ("foreign", "is_later"), [("agents/__init__.py", True), ("agents/__init__.py", False), ("agents/tool.py", True)]
)
def test_files_that_another_project_merged_into_a_package_are_pointed_out(tmp_path, monkeypatch, foreign, is_later):
    ours = ("reverie", "reverie/cli.py", *(f"{name}/__init__.py" for name in OUR_PACKAGES))
    theirs = ("openai_agents", foreign, "agents/run.py")
    for name, *files in (ours, theirs) if is_later else (theirs, ours):
        install(tmp_path, name, *files)
    import_from(tmp_path, monkeypatch)
    with pytest.raises(UserError, match=r"openai_agents installed files into reverie's package 'agents'"):
        check_packages(tmp_path)


def test_files_of_our_own_and_of_nobody_in_our_packages_are_let_be(tmp_path, monkeypatch):
    install(tmp_path, "reverie", "reverie/cli.py", *(f"{name}/__init__.py" for name in OUR_PACKAGES))
    (tmp_path / "agents" / "__init__.py").write_text("# changed by its user")
    (tmp_path / "agents" / "notes.txt").write_text("")
    (tmp_path / "envs" / "__pycache__").mkdir()
    import_from(tmp_path, monkeypatch)
    check_packages(tmp_path)


def test_another_projects_package_of_the_same_name_is_pointed_out(tmp_path, monkeypatch, capsys):
    other = tmp_path / "reverie" / "cli.py"
    monkeypatch.setattr(cli, "__file__", str(other))
    assert main(["list", "cores"]) == 2
    error = capsys.readouterr().err
    assert "another project's package" in error
    assert "memory_cores" in error


def test_lists_name_what_there_is(capsys):
    assert main(["list", "cores"]) == 0
    assert "lstm" in capsys.readouterr().out
    assert main(["list", "envs"]) == 0
    assert "envs:TMaze-v0" in capsys.readouterr().out
    assert main(["list", "configs"]) == 0


def test_help_and_lists_import_nothing_that_they_do_not_need():
    """One process, from the command that needs the least to the one that needs the most."""
    all_of_them = ["matplotlib", "ray", "gymnasium", "torch", "pydantic"]
    absent = dict.fromkeys(["--help", "--version", "list configs"], all_of_them)
    absent |= {"list cores": all_of_them[:3], "list envs": all_of_them[:2]}
    program = (
        "import sys\n"
        "from reverie.cli import main\n"
        f"for words, absent in {absent}.items():\n"
        "    try: assert main(words.split()) == 0, words\n"
        "    except SystemExit as end: assert end.code == 0, words\n"
        "    assert not set(absent) & set(sys.modules), (words, set(absent) & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=REPOSITORY, timeout=60)
    assert done.returncode == 0, done.stderr


def test_help_tells_the_exit_codes(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    printed = capsys.readouterr().out
    assert all(code in printed for code in ("0 ", "1 ", "2 ", "130", "143"))


def test_a_command_speaks_before_it_imports_what_takes_seconds():
    program = (
        "import sys\n"
        "class Terminal:\n"
        "    said = []\n"
        "    def write(self, text): self.said.append((text, {'torch', 'pydantic'} & set(sys.modules)))\n"
        "    def flush(self): pass\n"
        "sys.stderr = Terminal()\n"
        "from reverie.cli import main\n"
        "assert main(['train', 'absent.yaml']) == 2\n"
        "print(Terminal.said[0])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=REPOSITORY, timeout=60)
    assert done.stdout == "('reverie train: loading', set())\n"
