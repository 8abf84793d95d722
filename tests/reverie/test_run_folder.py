"""Run folders: one run at a time, nothing overwritten unasked, nothing outside the root."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fake_trainer import experiment

from reverie.run_folder import RunFolderError, open_run
from training.config import RunConfig


def use(config, **mode):
    with open_run(config, **mode) as folder:
        folder.begin(config)
        (folder.path / "metrics.jsonl").write_text("{}\n")
        (folder.path / "checkpoints").mkdir(exist_ok=True)
        (folder.path / "checkpoints" / "x").write_text("")
    return folder.path


def test_a_run_is_not_overwritten_and_not_continued_unasked(tmp_path):
    config = experiment(tmp_path / "new" / "root")
    with pytest.raises(RunFolderError, match="no run to resume"):
        use(config, resume=True)
    folder = use(config)
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(RunFolderError, match="--resume continues it, --overwrite replaces it"):
        use(config)
    with open_run(config, resume=True):
        assert (folder / "checkpoints" / "x").exists()
    with open_run(config, overwrite=True) as opened:
        opened.begin(config)
        assert sorted(os.listdir(folder)) == ["config.yaml", "lock", "notes.txt"]


def test_what_changes_in_a_resume_is_said(tmp_path, caplog):
    use(experiment(tmp_path, seed=1))
    with caplog.at_level(logging.WARNING):
        use(experiment(tmp_path, seed=2), resume=True)
    assert caplog.messages == ["train.seed changes from 1 to 2 in this resume"]


def test_a_second_run_is_refused_and_told_the_pid(tmp_path):
    config = experiment(tmp_path)
    with open_run(config) as held:
        held.begin(config)
        for mode in ({}, {"resume": True}, {"overwrite": True}):
            with pytest.raises(RunFolderError, match=f"is in use by pid {os.getpid()} on host"):
                use(config, **mode)
    use(config, resume=True)


def test_the_lock_of_a_dead_process_is_taken_over_with_a_warning(tmp_path, caplog):
    program = (
        "import fcntl, os, sys\n"
        "file = open(sys.argv[1], 'w')\n"
        "fcntl.flock(file, fcntl.LOCK_EX)\n"
        "file.write(f'pid {os.getpid()} on host here\\n'); file.flush()\n"
        "os.kill(os.getpid(), 9)\n"
    )
    config = experiment(tmp_path)
    (tmp_path / "run").mkdir()
    dead = subprocess.Popen([sys.executable, "-c", program, tmp_path / "run" / "lock"])
    dead.wait()
    with caplog.at_level(logging.WARNING):
        use(config)
    assert f"took over the lock of pid {dead.pid}" in caplog.text
    caplog.clear()
    use(config, resume=True)
    assert "lock" not in caplog.text


@pytest.mark.parametrize("name", ["run", "config.yaml", "metrics.jsonl", "tensorboard", "checkpoints", "lock"])
@pytest.mark.parametrize("mode", [{}, {"resume": True}, {"overwrite": True}])
def test_links_are_not_followed(tmp_path, name, mode):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("keep")
    root = tmp_path / "root"
    root.mkdir()
    if name != "run":
        (root / "run").mkdir()
    (root / "run" / name if name != "run" else root / "run").symlink_to(outside)
    with pytest.raises(RunFolderError):
        use(experiment(root), **mode)
    assert os.listdir(outside) == ["precious"]


@pytest.mark.parametrize("name", ["config.yaml", "metrics.jsonl", "tensorboard", "checkpoints", "samples", "lock"])
def test_a_pipe_in_the_place_of_a_part_of_a_run_is_named(tmp_path, name):
    folder = use(experiment(tmp_path))
    if (folder / name).is_dir():
        (folder / name / "x").unlink()
        (folder / name).rmdir()
    else:
        (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    for mode in ({"resume": True}, {"overwrite": True}):
        with pytest.raises(RunFolderError, match=rf"{name}: is not a \w+ ?\w* but a pipe"):
            use(experiment(tmp_path), **mode)


def test_a_root_that_is_a_link_itself_is_the_users_choice(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "runs").symlink_to(tmp_path / "disk")
    assert use(experiment(tmp_path / "runs")) == tmp_path / "disk" / "run"


@pytest.mark.parametrize("name", ["..", "../x", "/etc", ".hidden", ""])
def test_a_name_that_leaves_the_root_is_refused_here_too(tmp_path, name):
    config = experiment(tmp_path)
    object.__setattr__(config, "run", RunConfig(name, str(tmp_path)))
    with pytest.raises(RunFolderError, match="is not a run name"):
        use(config)


def test_a_folder_that_cannot_be_made_is_one_message(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match=r"file/run: (Not a directory|File exists)"):
        use(experiment(tmp_path / "file"))
    (tmp_path / "run").write_text("")
    with pytest.raises(RunFolderError, match="File exists"):
        use(experiment(tmp_path))
    with pytest.raises(RunFolderError):
        use(experiment(Path("/proc/version")))


@pytest.mark.parametrize("lock", [None, b"", b"pid 1 on host elsewhere\n"])
def test_the_lock_of_a_folder_that_is_only_looked_at_is_as_it_was(tmp_path, lock):
    config = experiment(tmp_path)
    use(config)
    path = tmp_path / "run" / "lock"
    path.unlink()
    if lock is not None:
        path.write_bytes(lock)
    with open_run(config, resume=True) as folder:
        assert f"pid {os.getpid()}" in path.read_text()
        folder.require_held()
    with pytest.raises(RunFolderError, match="already holds a run"), open_run(config):
        pass
    assert (path.read_bytes() if path.exists() else None) == lock


def test_a_link_where_the_configuration_is_written_first_is_not_followed(tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("keep")
    use(experiment(tmp_path))
    (tmp_path / "run" / ".config.yaml.tmp").symlink_to(precious)
    use(experiment(tmp_path), resume=True)
    assert precious.read_text() == "keep"
    assert "total_steps" in (tmp_path / "run" / "config.yaml").read_text()


def test_only_the_folders_that_a_refused_start_made_are_removed(tmp_path):
    (tmp_path / "root").mkdir()
    for root in ("root", "root/new/deep"):
        with (
            pytest.raises(RunFolderError, match="no run to resume"),
            open_run(experiment(tmp_path / root), resume=True),
        ):
            pass
    assert os.listdir(tmp_path / "root") == []
