"""The loop stops, saves, resumes and logs exactly, through signals, kills, full disks and damaged files."""

import contextlib
import errno
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from fake_trainer import FakeTrainer, experiment
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from reverie import checkpoint, event_file, train
from reverie.checkpoint import folders
from reverie.manifest import CheckpointError, IncompatibleError
from reverie.metrics import MetricWriter, Window
from reverie.metrics_file import drop_rows_after, read_rows
from reverie.run_folder import LostRunError, open_run
from reverie.run_lock import RunFolderError
from training.errors import DivergenceError


def run(root, total_steps, resume=False, trainer=None, **options):
    trainer = trainer or FakeTrainer(total_steps)
    config = experiment(root, total_steps, **options)
    with open_run(config, resume=resume) as folder:
        code = train.run(config, trainer, folder)
    return code, trainer, folder.path


def logged(folder):
    return [
        {k: v for k, v in row.items() if k not in ("time", "seconds", train.RATE)}
        for row in read_rows(folder / "metrics.jsonl")
    ]


def test_a_run_logs_and_saves_at_its_intervals_and_at_its_end(tmp_path, capsys):
    code, trainer, folder = run(tmp_path, 200)
    assert code == 0
    assert trainer.step_count == 200
    assert [row["step"] for row in logged(folder)] == [30, 60, 90, 120, 150, 180, 200]
    assert [int(path.name) for path in folders(folder / "checkpoints")] == [140, 200]
    assert "200 / 200 steps" in capsys.readouterr().err
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    scalars = [(entry.step, entry.value) for entry in events.Scalars("loss/total")]
    assert scalars == [(row["step"], pytest.approx(row["loss/total"], rel=1e-6)) for row in logged(folder)]


@pytest.mark.parametrize("stop", [10, 70, 80, 150])
def test_a_resumed_run_equals_one_that_was_never_stopped(tmp_path, stop, capsys, caplog):
    _, whole, whole_folder = run(tmp_path / "whole", 300)
    run(tmp_path / "parts", stop)
    with caplog.at_level(logging.WARNING):
        code, resumed, folder = run(tmp_path / "parts", 300, resume=True)
    assert code == 0
    assert torch.equal(whole.w, resumed.w)
    assert torch.equal(whole.generator.get_state(), resumed.generator.get_state())
    assert logged(folder) == logged(whole_folder)
    assert f"resumed from {folder}/checkpoints/{stop:012d} at step {stop}" in capsys.readouterr().err
    assert "environment row 3 did not replay exactly" in caplog.text
    assert "not exact" not in caplog.text


def test_rows_written_after_the_checkpoint_are_dropped_at_a_resume(tmp_path):
    _, _, folder = run(tmp_path, 100)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 101, "time": 0}\n{"step": 130, "ti')
    _, _, folder = run(tmp_path, 200, resume=True)
    assert [row["step"] for row in logged(folder)] == [30, 60, 90, 120, 150, 180, 200]
    assert (folder / "metrics.jsonl").read_bytes().count(b"\n") == 7


def test_a_damaged_checkpoint_is_named_and_the_older_one_used(tmp_path, caplog):
    _, whole, _ = run(tmp_path / "whole", 300)
    _, _, folder = run(tmp_path, 200)
    damaged = folder / "checkpoints" / f"{200:012d}" / "state.pt"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with caplog.at_level(logging.WARNING):
        _, resumed, _ = run(tmp_path, 300, resume=True)
    assert str(damaged) in caplog.text
    assert torch.equal(whole.w, resumed.w)


def test_when_every_checkpoint_is_damaged_the_run_does_not_start_over(tmp_path):
    _, _, folder = run(tmp_path, 200)
    for path in folders(folder / "checkpoints"):
        (path / "weights.safetensors").write_bytes(b"")
    before = (folder / "metrics.jsonl").read_bytes()
    trainer = FakeTrainer(300)
    with pytest.raises(CheckpointError, match="no checkpoint verifies"):
        run(tmp_path, 300, resume=True, trainer=trainer)
    assert trainer.step_count == 0
    assert (folder / "metrics.jsonl").read_bytes() == before


def test_a_checkpoint_of_another_agent_is_refused(tmp_path):
    run(tmp_path, 100)
    with pytest.raises(IncompatibleError, match=r"core\.width: the checkpoint has 4, this experiment 5"):
        run(tmp_path, 300, resume=True, trainer=FakeTrainer(300, width=5))


def test_a_run_stopped_before_its_first_checkpoint_says_that_it_starts_over(tmp_path, caplog):
    with contextlib.suppress(ZeroDivisionError):
        trainer = FakeTrainer(100)
        trainer.update = lambda: 1 / 0
        run(tmp_path, 100, trainer=trainer)
    with caplog.at_level(logging.WARNING):
        code, _, _ = run(tmp_path, 100, resume=True)
    assert code == 0
    assert "holds no checkpoint yet; the run starts at step 0" in caplog.text


def test_another_thread_count_is_said_to_make_the_resume_inexact(tmp_path, caplog):
    run(tmp_path, 100)
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        with caplog.at_level(logging.WARNING):
            run(tmp_path, 200, resume=True)
    finally:
        torch.set_num_threads(threads)
    assert "the resume is not exact" in caplog.text


def test_metrics_without_a_checkpoint_are_not_cut_by_a_new_start(tmp_path):
    _, _, folder = run(tmp_path, 100)
    shutil.rmtree(folder / "checkpoints")
    before = (folder / "metrics.jsonl").read_bytes()
    with pytest.raises(RunFolderError, match="has metrics up to step 100 and no checkpoint to continue from"):
        run(tmp_path, 200, resume=True)
    assert (folder / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize("state", [{}, {"trainer": {}, "window": {}}, {"trainer": None, "window": {}}, {"window": 3}])
def test_a_sealed_state_of_other_content_is_skipped_for_the_one_before(tmp_path, caplog, state):
    _, whole, _ = run(tmp_path / "whole", 300)
    _, trainer, folder = run(tmp_path, 200)
    root = folder / "checkpoints"
    checkpoint.save(root, 210, trainer.weights(), state, trainer.fingerprint(), 3)
    with caplog.at_level(logging.WARNING):
        _, resumed, _ = run(tmp_path, 300, resume=True)
    assert f"{210:012d}: cannot be read" in caplog.text
    assert torch.equal(whole.w, resumed.w)


class DivergingTrainer(FakeTrainer):
    """Skips updates from `first` up to `last`, where it gives up if `gives_up`."""

    def __init__(self, total_steps, first, last, gives_up):
        super().__init__(total_steps)
        self.first, self.last, self.gives_up = first, last, gives_up

    def update(self):
        metrics = super().update()
        self.skipped_in_a_row = max(self.update_count - self.first, 0) if self.update_count < self.last else 0
        if self.gives_up and self.update_count >= self.last:
            raise DivergenceError("not finite")
        return metrics


def test_a_streak_of_skipped_updates_replaces_no_checkpoint(tmp_path, caplog):
    trainer = DivergingTrainer(1000, first=13, last=20, gives_up=True)
    with caplog.at_level(logging.WARNING), pytest.raises(DivergenceError):
        run(tmp_path, 1000, trainer=trainer, checkpoint_interval=1, log_interval=1)
    assert [int(path.name) for path in folders(tmp_path / "run" / "checkpoints")] == [120, 130]
    assert "the checkpoint of step 140 is not saved: the last 1 updates were not finite" in caplog.text


def test_after_a_streak_checkpoints_are_saved_again(tmp_path):
    code, _, folder = run(tmp_path, 200, trainer=DivergingTrainer(200, 3, 9, False), checkpoint_interval=7)
    assert code == 0
    assert [int(path.name) for path in folders(folder / "checkpoints")] == [140, 200]


def test_a_run_that_ends_within_a_streak_has_failed(tmp_path):
    code, _, folder = run(tmp_path, 100, trainer=DivergingTrainer(100, 7, 99, False), checkpoint_interval=7)
    assert code == 1
    assert [int(path.name) for path in folders(folder / "checkpoints")] == [70]


@pytest.mark.parametrize("how", ["deleted", "moved", "replaced"])
def test_a_run_whose_folder_is_gone_stops_and_writes_nowhere(tmp_path, how):
    trainer, folder = FakeTrainer(1000), tmp_path / "run"
    working = trainer.update

    def update():
        if trainer.update_count == 30:
            if how == "deleted":
                shutil.rmtree(folder)
            else:
                folder.rename(tmp_path / "elsewhere")
            if how == "replaced":
                run(tmp_path, 50)
                before.extend(sorted(folder.rglob("*")))
        return working()

    trainer.update = update
    before: list[Path] = []
    with pytest.raises(LostRunError, match="was deleted or moved while the run trained"):
        run(tmp_path, 1000, trainer=trainer)
    assert sorted(folder.rglob("*")) == before
    if how == "moved":
        assert (tmp_path / "elsewhere" / "lock").read_bytes() == b""
        code, resumed, _ = run(tmp_path, 320, resume=True, name="elsewhere")
        assert (code, resumed.step_count) == (0, 320)


def test_the_last_rows_are_written_however_a_run_ends(tmp_path):
    assert [row["step"] for row in logged(run(tmp_path, 20)[2])] == [20]
    with pytest.raises(DivergenceError):
        run(tmp_path, 100, trainer=DivergingTrainer(100, 4, 6, True), name="other")
    assert [row["step"] for row in logged(tmp_path / "other")] == [30, 60]


def test_the_logged_rate_is_not_that_of_the_start(tmp_path):
    """The first update waits for actors: averaged from there, the curve of a run would climb for hours."""
    trainer = FakeTrainer(60, delay=0.005)
    working = trainer.update

    def update():
        time.sleep(0.0 if trainer.update_count else 1.0)
        return working()

    trainer.update = update
    rows = read_rows(run(tmp_path, 60, trainer=trainer)[2] / "metrics.jsonl")
    assert [row[train.RATE] > 60 for row in rows] == [True, True]
    short = read_rows(run(tmp_path, 20, name="short")[2] / "metrics.jsonl")
    assert [train.RATE in row for row in short] == [False], "two updates, of which one is timed"


def full_disk(*args, **kwargs):
    raise CheckpointError("no space for a checkpoint")


def test_a_save_that_fails_is_tried_again_while_training_goes_on(tmp_path, monkeypatch, caplog):
    attempts = []
    working = checkpoint.save

    def fails_twice(root, step, *args):
        attempts.append(step)
        if len(attempts) <= 2:
            full_disk()
        return working(root, step, *args)

    monkeypatch.setattr(checkpoint, "save", fails_twice)
    code, _, folder = run(tmp_path, 150)
    assert code == 0
    assert attempts == [70, 90, 120, 140, 150]
    assert caplog.text.count("no space") == 2
    assert [int(path.name) for path in folders(folder / "checkpoints")] == [140, 150]


def test_a_last_save_that_fails_is_a_failure_of_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "save", full_disk)
    code, trainer, _ = run(tmp_path, 100)
    assert trainer.step_count == 100
    assert code == 1


def test_metrics_that_cannot_be_written_do_not_stop_training(tmp_path, monkeypatch, capsys):
    def fails(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("reverie.metrics.append_row", fails)
    write, calls = event_file.append, iter(range(100))
    # The disk is full at first, and for a while later on.
    monkeypatch.setattr(event_file, "append", lambda *entry: (fails if next(calls) in (0, 3, 4) else write)(*entry))
    code, _, folder = run(tmp_path, 200)
    assert code == 0
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    assert [entry.step for entry in events.Scalars("loss/total")] == [60, 90, 180, 200]
    error = capsys.readouterr().err
    assert error.count("cannot write metrics.jsonl") == 1
    assert error.count("cannot write the event file") == 2


def test_a_row_cut_short_by_a_full_disk_is_taken_back(tmp_path):
    program = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from reverie.metrics_file import append_row\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "for step in range(100):\n"
        "    try: append_row(Path(sys.argv[1]), step, 0.0, 0.0, {'x': 1.0})\n"
        "    except OSError: sys.exit(7)\n"
    )
    path = tmp_path / "metrics.jsonl"
    assert subprocess.run([sys.executable, "-c", program, path], timeout=60).returncode == 7
    raw = path.read_bytes()
    assert 900 < len(raw) <= 1000
    assert raw.endswith(b"\n")
    assert len(read_rows(path)) == raw.count(b"\n")


def test_values_that_are_not_finite_are_valid_json(tmp_path):
    writer = MetricWriter(tmp_path)
    writer.write(5, {"a": float("nan"), "b": float("inf"), "c": torch.tensor(2.0)})
    row = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert (row["step"], row["a"], row["b"], row["c"]) == (5, None, None, 2.0)


def test_dropping_rows_from_no_file_makes_none(tmp_path):
    drop_rows_after(tmp_path / "metrics.jsonl", 5)
    assert list(tmp_path.iterdir()) == []


def test_floats_are_averaged_and_counts_are_not():
    window = Window()
    window.add({"loss": 1.0, "count": 1})
    window.add({"loss": 2.0, "count": 2, "rare": 5.0})
    copy = Window(**window.state())
    assert window.row() == copy.row() == {"loss": 1.5, "count": 2.0, "rare": 5.0}
    assert window.row() == {}


def start(root, *options):
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    script = Path(__file__).with_name("fake_trainer.py")
    process = subprocess.Popen(
        [sys.executable, script, root, *options], env=environment, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not folders(root / "run" / "checkpoints") and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    return process


def test_signals_leave_a_run_that_can_be_resumed(tmp_path):
    """Stopped by SIGTERM, then resumed and stopped by SIGINT; test_train_rl.py kills one outright."""
    process = start(tmp_path)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 143
    assert "saving and stopping" in error
    terminated = checkpoint.newest(tmp_path / "run" / "checkpoints")[0]
    assert terminated.state["trainer"]["steps"] == terminated.step

    process = start(tmp_path, "--resume")
    line = read_until(process, "resumed from")
    assert f"at step {terminated.step:,}" in line
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130
    steps = [row["step"] for row in read_rows(tmp_path / "run" / "metrics.jsonl")]
    assert steps == sorted(set(steps))
    assert {step % 30 for step in steps[:-1]} == {0}, "the row of an unfinished window is written again when it is full"


def read_until(process, words):
    for line in process.stderr:
        if words in line:
            return line
    return ""


def test_leftovers_of_a_killed_save_are_gone_before_training_starts(tmp_path):
    _, _, folder = run(tmp_path, 100)
    dead = subprocess.Popen(["true"])
    dead.wait()
    leftover = folder / "checkpoints" / f".tmp-100-{dead.pid}"
    leftover.mkdir()
    run(tmp_path, 110, resume=True)
    assert not leftover.exists()


def test_the_handlers_of_before_are_put_back(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    run(tmp_path, 30)
    assert signal.getsignal(signal.SIGTERM) is before


def test_resuming_a_finished_run_changes_nothing(tmp_path):
    _, _, folder = run(tmp_path, 100)
    before = [path.name for path in folders(folder / "checkpoints")]
    code, trainer, _ = run(tmp_path, 100, resume=True)
    assert (code, trainer.step_count) == (0, 100)
    assert [path.name for path in folders(folder / "checkpoints")] == before
