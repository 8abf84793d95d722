"""Checkpoints whose hashes agree but whose content is not what the program writes: skipped for the one before."""

import hashlib
import json
import shutil

import pytest
import safetensors.torch
import torch

from reverie.checkpoint import newest, save
from reverie.manifest import CheckpointError
from reverie.weights_size import available_memory
from tests.reverie.test_checkpoint import FINGERPRINT, reseal, save_step


def edit_manifest(folder, change):
    """Change what the manifest says, and seal it again."""
    manifest = json.loads((folder / "manifest.json").read_bytes())
    change(manifest)
    raw = json.dumps(manifest).encode()
    (folder / "manifest.json").write_bytes(raw)
    (folder / "manifest.sha256").write_text(f"{hashlib.sha256(raw).hexdigest()}  manifest.json\n")


@pytest.mark.parametrize(
    "change",
    [
        lambda manifest: manifest["files"]["state.pt"].pop("size"),
        lambda manifest: manifest["files"]["state.pt"].update(size="9"),
        lambda manifest: manifest.update(files=None),
        lambda manifest: manifest["files"].update({"state.pt": None}),
        lambda manifest: manifest.update(step="2"),
        lambda manifest: manifest.update(step=3),
        lambda manifest: manifest.update(fingerprint=[]),
        lambda manifest: manifest.update(num_threads=None),
        lambda manifest: manifest.clear(),
    ],
)
def test_a_sealed_manifest_of_other_content_is_damage(tmp_path, change):
    save_step(tmp_path, 1)
    edit_manifest(save_step(tmp_path, 2), change)
    found, (skipped,) = newest(tmp_path, FINGERPRINT)
    assert found.step == 1
    assert f"{2:012d}" in skipped.reason


def test_a_checkpoint_under_a_higher_number_is_not_the_newest(tmp_path):
    shutil.copytree(save_step(tmp_path, 1), tmp_path / f"{99:012d}")
    save_step(tmp_path, 2)
    found, (skipped,) = newest(tmp_path)
    assert found.step == 2
    assert "is the checkpoint of step 1 under another name" in skipped.reason


def test_weights_that_are_not_numbers_are_neither_loaded_nor_saved(tmp_path):
    save_step(tmp_path, 1)
    folder = save_step(tmp_path, 2)
    weights = {"layer.w": torch.full((16, 16), float("nan")), "layer.b": torch.zeros(3)}
    safetensors.torch.save_file(weights, folder / "weights.safetensors")
    reseal(folder)
    found, (skipped,) = newest(tmp_path)
    assert found.step == 1
    assert "layer.w: holds NaN" in skipped.reason
    with pytest.raises(CheckpointError, match=r"layer\.w: holds NaN"):
        save(tmp_path, 3, weights, {}, FINGERPRINT, keep=3)


@pytest.mark.parametrize("error", [KeyError("rng"), TypeError("x"), ValueError("x"), AttributeError("x")])
def test_content_that_cannot_be_used_is_damage_too(tmp_path, error):
    for step in (1, 2):
        save_step(tmp_path, step)

    def adopt(found):
        if found.step == 2:
            raise error

    found, (skipped,) = newest(tmp_path, FINGERPRINT, adopt)
    assert found.step == 1
    assert f"{2:012d}: cannot be read" in skipped.reason


@pytest.mark.parametrize("name", ["weights.safetensors", "state.pt"])
def test_files_that_do_not_fit_into_memory_are_not_read(tmp_path, monkeypatch, name):
    save_step(tmp_path, 1)
    folder = save_step(tmp_path, 2)
    with (folder / name).open("ab") as file:
        file.truncate(40 * 2**30)  # a hole
    edit_manifest(folder, lambda manifest: manifest["files"][name].update(size=40 * 2**30))
    monkeypatch.setattr("reverie.weights_size.available_memory", lambda: 2**30)
    found, (skipped,) = newest(tmp_path)
    assert found.step == 1
    assert f"{2:012d}" in skipped.reason
    assert "needs 80.0 GiB of memory, 1.0 GiB are free" in skipped.reason
    if name == "weights.safetensors":  # which fit nowhere else than where their header ends
        monkeypatch.setattr("reverie.weights_size.available_memory", lambda: 2**50)
        found, (skipped,) = newest(tmp_path)
        assert found.step == 1
        assert "its tensors end at byte " in skipped.reason


def test_free_memory_is_told_in_bytes():
    assert 2**20 < available_memory() < 2**50
