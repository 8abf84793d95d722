"""Checkpoints under the faults that disks, signals and enemies bring: whole, or refused with a reason."""

import errno
import hashlib
import io
import json
import logging
import os
import pickle
import random
import shutil
import subprocess
import sys
import time
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from reverie import checkpoint
from reverie.checkpoint import folders, load, newest, save
from reverie.manifest import CheckpointError, IncompatibleError

FINGERPRINT = {"core": {"name": "lstm", "d_model": 8}, "env": "reverie/TMaze-v0", "spaces": ["box", 3]}


def save_step(root, step, value=None, keep=3, fingerprint=FINGERPRINT, score=None):
    value = step if value is None else value
    weights = {"layer.w": torch.full((16, 16), float(value)), "layer.b": torch.arange(3) + value}
    state = {
        "steps": value,
        "rng": torch.get_rng_state(),
        "python": random.Random(1).getstate(),
        "nested": {"x": [1.5, None]},
    }
    return save(root, step, weights, state, fingerprint, keep, score)


def reseal(folder, **changes):
    """Make the manifest agree with the files, as an enemy who can write all of them would."""
    manifest = json.loads((folder / "manifest.json").read_bytes()) | changes
    for name, entry in manifest["files"].items():
        raw = (folder / name).read_bytes()
        entry |= {"size": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
    raw = json.dumps(manifest).encode()
    (folder / "manifest.json").write_bytes(raw)
    (folder / "manifest.sha256").write_text(f"{hashlib.sha256(raw).hexdigest()}  manifest.json\n")


def test_what_is_saved_is_what_is_loaded(tmp_path):
    tied = torch.randn(4, 4)
    weights = {
        "a": tied,
        "b": tied,
        "slice": torch.randn(6, 4)[::2],
        "half": torch.randn(3).bfloat16(),
        "none": torch.zeros(0),
    }
    state = {
        "optimiser": {"state": {0: {"step": torch.tensor(3.0)}}},
        "order": OrderedDict(a=1),
        "python": random.getstate(),
    }
    folder = save(tmp_path / "new", 7, weights, state, FINGERPRINT, keep=2)
    loaded = load(folder, FINGERPRINT)
    assert loaded.step == 7
    assert loaded.num_threads == torch.get_num_threads()
    assert loaded.fingerprint == FINGERPRINT
    assert loaded.weights.keys() == weights.keys()
    for name, tensor in weights.items():
        assert torch.equal(loaded.weights[name], tensor)
        assert loaded.weights[name].dtype == tensor.dtype
    assert loaded.state["optimiser"]["state"][0]["step"] == 3.0
    assert loaded.state["python"] == random.getstate()
    done = subprocess.run(["sha256sum", "-c", "manifest.sha256"], cwd=folder, capture_output=True)
    assert done.returncode == 0


def test_newest_is_by_step_and_not_by_the_clock(tmp_path):
    for step in (5, 30, 100):
        save_step(tmp_path, step)
    for age, folder in enumerate(folders(tmp_path)):
        os.utime(folder, (10**9 - age, 10**9 - age))
    found, skipped = newest(tmp_path, FINGERPRINT)
    assert found.step == 100
    assert skipped == []
    again = save_step(tmp_path, 100, value=1)
    assert newest(tmp_path, FINGERPRINT)[0].path == again
    assert newest(tmp_path / "absent", FINGERPRINT) == (None, [])


def flip(offset):
    def damage(folder, name):
        raw = bytearray((folder / name).read_bytes())
        raw[offset if offset >= 0 else len(raw) + offset] ^= 4
        (folder / name).write_bytes(raw)

    return damage


def flip_middle(folder, name):
    flip((folder / name).stat().st_size // 2)(folder, name)


def truncate(size):
    def damage(folder, name):
        os.truncate(folder / name, size if size >= 0 else (folder / name).stat().st_size + size)

    return damage


def truncate_middle(folder, name):
    truncate((folder / name).stat().st_size // 2)(folder, name)


def append(folder, name):
    with (folder / name).open("ab") as file:
        file.write(b"\0" * 16)


def delete(folder, name):
    (folder / name).unlink()


def zero_fill(folder, name):
    (folder / name).write_bytes(bytes((folder / name).stat().st_size))


def become_a_pipe(folder, name):
    (folder / name).unlink()
    os.mkfifo(folder / name)


def become_a_link(folder, name):
    (folder / name).rename(folder / "elsewhere")
    (folder / name).symlink_to("elsewhere")


def become_a_folder(folder, name):
    (folder / name).unlink()
    (folder / name).mkdir()


DAMAGES = {
    "empty": truncate(0), "one byte": truncate(1), "eight bytes": truncate(8), "half": truncate_middle,
    "one short": truncate(-1), "longer": append, "flip first": flip(0), "flip header": flip(12),
    "flip middle": flip_middle, "flip last": flip(-1), "deleted": delete,
    "zeros": zero_fill, "pipe": become_a_pipe,
    "link": become_a_link, "folder": become_a_folder,
}  # fmt: skip


@pytest.mark.parametrize("name", ["weights.safetensors", "state.pt", "manifest.json", "manifest.sha256"])
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_damage_to_any_file_is_found_and_the_next_older_checkpoint_is_used(tmp_path, name, damage):
    save_step(tmp_path, 1)
    broken = save_step(tmp_path, 2)
    damage(broken, name)
    with pytest.raises(CheckpointError, match=r"manifest|weights|state"):
        load(broken, FINGERPRINT)
    found, skipped = newest(tmp_path, FINGERPRINT)
    assert found.step == 1
    assert [entry.path for entry in skipped] == [broken]
    assert str(broken) in skipped[0].reason
    assert broken.exists()


def test_every_single_bit_of_every_byte_is_guarded(tmp_path):
    folder = save(tmp_path, 1, {"w": torch.ones(2)}, {"n": 1}, {"a": 1}, keep=2)
    generator = random.Random(0)
    for name in os.listdir(folder):
        whole = (folder / name).read_bytes()
        for offset in generator.sample(range(len(whole)), min(len(whole), 200)):
            broken = bytearray(whole)
            broken[offset] ^= 1 << generator.randrange(8)
            (folder / name).write_bytes(broken)
            with pytest.raises(CheckpointError):
                load(folder)
        (folder / name).write_bytes(whole)
    load(folder)


def test_swapped_files_and_empty_folders_are_found(tmp_path):
    save_step(tmp_path, 1)
    swapped = save_step(tmp_path, 2)
    os.rename(swapped / "state.pt", swapped / "x")
    os.rename(swapped / "weights.safetensors", swapped / "state.pt")
    os.rename(swapped / "x", swapped / "weights.safetensors")
    (tmp_path / f"{3:012d}").mkdir()
    (tmp_path / f"{4:012d}").write_text("a file")
    (tmp_path / f"{5:012d}").symlink_to(tmp_path / f"{1:012d}")
    found, skipped = newest(tmp_path, FINGERPRINT)
    assert found.step == 1
    assert [int(entry.path.name) for entry in skipped] == [5, 4, 3, 2]


def test_when_none_verifies_it_is_an_error_and_never_a_fresh_start(tmp_path):
    for step in (1, 2):
        truncate(1)(save_step(tmp_path, step), "state.pt")
    with pytest.raises(CheckpointError, match="no checkpoint verifies") as caught:
        newest(tmp_path, FINGERPRINT)
    assert str(caught.value).count("state.pt") == 2
    assert len(folders(tmp_path)) == 2


def test_checkpoints_of_another_experiment_are_refused_with_the_fields_that_differ(tmp_path):
    save_step(tmp_path, 1)
    save_step(tmp_path, 2, fingerprint=FINGERPRINT | {"core": {"name": "gru", "d_model": 8, "heads": 2}})
    with pytest.raises(IncompatibleError) as caught:
        newest(tmp_path, FINGERPRINT)
    assert "core.name: the checkpoint has 'gru', this experiment 'lstm'" in str(caught.value)
    assert "core.heads: only in the checkpoint" in str(caught.value)
    assert "d_model" not in str(caught.value)
    assert newest(tmp_path)[0].step == 2


def test_a_newer_format_is_refused_by_its_version(tmp_path):
    save_step(tmp_path, 1)
    reseal(save_step(tmp_path, 2), format=99, more={})
    with pytest.raises(IncompatibleError, match="format version 99; this program reads version 1"):
        newest(tmp_path, FINGERPRINT)
    reseal(save_step(tmp_path, 3), more={})
    with pytest.raises(CheckpointError, match="fields of format version 1"):
        load(folders(tmp_path)[-1])


class Payload:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (os.mkdir, (str(self.marker),))


def evil_pickles(marker):
    zipped, legacy = io.BytesIO(), io.BytesIO()
    torch.save({"x": Payload(marker)}, zipped)
    torch.save({"x": Payload(marker)}, legacy, _use_new_zipfile_serialization=False)
    return [zipped.getvalue(), legacy.getvalue(), pickle.dumps({"x": Payload(marker)})]


@pytest.mark.parametrize("name", ["state.pt", "weights.safetensors"])
@pytest.mark.parametrize("form", [0, 1, 2], ids=["zip", "legacy", "raw"])
def test_a_pickle_that_would_run_code_is_refused_though_every_hash_agrees(tmp_path, name, form):
    marker = tmp_path / "marker"
    folder = save_step(tmp_path / "checkpoints", 1)
    (folder / name).write_bytes(evil_pickles(marker)[form])
    reseal(folder)
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        load(folder, FINGERPRINT)
    assert not marker.exists()


def test_state_that_could_not_be_loaded_again_is_refused_at_the_save(tmp_path):
    save_step(tmp_path, 1)
    with pytest.raises(CheckpointError, match=r"state\.pt"):
        save(tmp_path, 2, {}, {"path": Path("x")}, {}, keep=2)
    assert [folder.name for folder in tmp_path.iterdir()] == [f"{1:012d}"]


def test_only_the_newest_whole_checkpoints_are_kept(tmp_path):
    for step in range(1, 6):
        save_step(tmp_path, step, keep=2)
    assert [int(folder.name) for folder in folders(tmp_path)] == [4, 5]
    truncate(0)(folders(tmp_path)[-1], "state.pt")
    save_step(tmp_path, 6, keep=2)
    assert [int(folder.name) for folder in folders(tmp_path)] == [4, 5, 6]
    save_step(tmp_path, 7, keep=2)
    assert [int(folder.name) for folder in folders(tmp_path)] == [6, 7]
    with pytest.raises(ValueError, match="at least 2"):
        save_step(tmp_path, 8, keep=1)


def test_a_damaged_checkpoint_of_a_later_step_stays_and_costs_no_whole_one(tmp_path):
    save_step(tmp_path, 1, keep=2)
    later = save_step(tmp_path, 9, keep=2)
    truncate(0)(later, "state.pt")
    for step in (2, 9):
        save_step(tmp_path, step, keep=2)
    assert [folder.name[-4:] for folder in folders(tmp_path)] == ["0002", "0009", "09-1"]
    assert newest(tmp_path, FINGERPRINT)[0].path.name == f"{9:012d}-1"


@pytest.mark.parametrize("broken", ["rmtree", "replace"])
def test_a_deletion_that_fails_is_reported_and_tried_again(tmp_path, monkeypatch, caplog, broken):
    save_step(tmp_path, 1, keep=2)
    save_step(tmp_path, 2, keep=2)
    module = shutil if broken == "rmtree" else os
    working = getattr(module, broken)

    def fails(source, *args, **kwargs):
        if Path(source).name in (f"{1:012d}", f".tmp-{1:012d}-{os.getpid()}"):
            raise OSError(errno.EBUSY, "Device or resource busy")
        return working(source, *args, **kwargs)

    with monkeypatch.context() as patched, caplog.at_level(logging.WARNING):
        patched.setattr(module, broken, fails)
        save_step(tmp_path, 3, keep=2)
    assert "cannot be deleted" in caplog.text
    assert newest(tmp_path, FINGERPRINT)[0].step == 3
    save_step(tmp_path, 4, keep=2)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [f"{3:012d}", f"{4:012d}"]


def test_a_full_disk_is_a_clean_error_and_leaves_nothing(tmp_path, monkeypatch):
    save_step(tmp_path, 1)
    with monkeypatch.context() as patched:
        usage = shutil.disk_usage(tmp_path)._replace(free=1000)
        patched.setattr(shutil, "disk_usage", lambda path: usage)
        with pytest.raises(CheckpointError, match="no space for a checkpoint"):
            save_step(tmp_path, 2)

    def no_space(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", no_space)
        with pytest.raises(CheckpointError, match="No space left on device"):
            save_step(tmp_path, 2)
    assert [entry.name for entry in tmp_path.iterdir()] == [f"{1:012d}"]
    save_step(tmp_path, 2)


def test_leftovers_of_dead_processes_go_and_those_of_living_ones_stay(tmp_path):
    done = subprocess.Popen(["true"])
    done.wait()
    for pid in (done.pid, os.getpid(), os.getppid()):
        (tmp_path / f".tmp-5-{pid}").mkdir()
    (tmp_path / ".tmp-mine").mkdir()
    checkpoint.remove_stale(tmp_path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [f".tmp-5-{os.getppid()}", ".tmp-mine"]


SAVE_LOOP = """
import os, sys, signal
from pathlib import Path
import torch
from reverie.checkpoint import save, newest
root = Path(sys.argv[1])
torch.set_num_threads(1)
def child():
    found, _ = newest(root, {})
    step = found.step if found else 0
    while True:
        step += 1
        save(root, step, {"w": torch.full((50_000,), float(step))}, {"step": step}, {}, keep=2)
for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        try:
            child()
        finally:
            os._exit(1)
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


def test_killing_a_save_at_any_moment_leaves_only_whole_checkpoints(tmp_path):
    generator = random.Random(0)
    process = subprocess.Popen(
        [sys.executable, "-c", SAVE_LOOP, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    reached, leftovers = [], 0
    with process:
        for _ in range(20):
            process.stdin.write("go\n")
            process.stdin.flush()
            pid = int(process.stdout.readline())
            time.sleep(generator.uniform(0.02, 0.15))
            os.kill(pid, 9)
            assert int(process.stdout.readline()) == -9
            leftovers += any(entry.name.startswith(".tmp") for entry in tmp_path.iterdir())
            found, skipped = newest(tmp_path, {})
            assert skipped == []
            if found is not None:
                assert found.state["step"] == found.step == found.weights["w"][0]
                reached.append(found.step)
    assert reached == sorted(reached)
    assert reached[-1] > 2  # on a busy machine few saves are done between two kills
    checkpoint.remove_stale(tmp_path)
    assert all(folder in folders(tmp_path) for folder in tmp_path.iterdir())
    assert leftovers > 0
