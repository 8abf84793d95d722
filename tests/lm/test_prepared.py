"""Prepared corpora: files that are not as they were written are made anew; what stops a preparation is named."""

from __future__ import annotations

import fcntl
import json
import os
import pickle
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audio.config import DataConfig as AudioDataConfig
from audio.corpus import prepare as prepare_clips
from lm.config import DataConfig, SplitConfig
from lm.corpus import Corpus, prepare
from lm.mapped import DTYPES, file_sha256
from lm.prepared import PREFIX, atomic_folder
from tests.audio.conftest import clips
from tests.audio.synthetic import RATE
from training.errors import InputError, UserError

__all__ = ["clips"]
TEXT = b"to be or not to be, that is the question"


@pytest.fixture
def config(tmp_path: Path) -> DataConfig:
    (tmp_path / "text.txt").write_bytes(TEXT)
    return DataConfig(str(tmp_path / "text.txt"), "characters", SplitConfig(0.5, 0.5), str(tmp_path / "cache"))


def text_of(corpus: Corpus) -> bytes:
    return b"".join(corpus.vocabulary.decode(split.tokens[:]) for split in corpus.splits.values())


def change(cache: Path, edit: Callable[[dict[str, Any], Path], object]) -> None:
    """Edit the manifest of the one corpus in a cache, which `edit` also gets the folder of."""
    (path,) = cache.glob("*/manifest.json")
    manifest = json.loads(path.read_text())
    edit(manifest, path.parent)
    path.write_text(json.dumps(manifest))


def numbers_beyond(manifest: dict[str, Any], folder: Path) -> None:
    path = folder / "train.bin"
    path.write_bytes(b"\xff" * path.stat().st_size)
    manifest["splits"]["train"]["sha256"] = file_sha256(path)


def empty(manifest: dict[str, Any], folder: Path) -> None:
    (folder / "train.bin").write_bytes(b"")
    manifest["splits"]["train"]["sha256"] = file_sha256(folder / "train.bin")


def fifo(manifest: dict[str, Any], folder: Path) -> None:
    (folder / "train.bin").unlink()
    os.mkfifo(folder / "train.bin")


def elsewhere(manifest: dict[str, Any], folder: Path) -> None:
    manifest["splits"]["../other"] = manifest["splits"]["train"]


DAMAGES: dict[str, Callable[[dict[str, Any], Path], object]] = {
    **{
        f"dtype {dtype}": lambda manifest, folder, dtype=dtype: manifest["splits"]["train"].update(dtype=dtype)
        for dtype in ("|O", "O", "object", "<f8", "<i8", "|i1", "V1", "<U1", ">u2", "u1,u1", "uint8", ["|u1"], None, 1)
    },
    **{
        f"starts {starts}": lambda manifest, folder, starts=starts: manifest["splits"]["train"].update(starts=starts)
        for starts in ([], [1], [0, 0], [0, 10**6], [0, -1], [[0]], [0, 10**30], ["x"], {"a": 1}, None, 0)
    },
    "numbers beyond the vocabulary": numbers_beyond,
    "no numbers": empty,
    "a FIFO": fifo,
    "another split": elsewhere,
    "no train": lambda manifest, folder: manifest["splits"].pop("train"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_manifest_that_does_not_describe_its_files_is_made_anew(
    config: DataConfig, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = prepare(config).sha256
    change(tmp_path / "cache", DAMAGES[damage])
    corpus = prepare(config)
    assert "is damaged and prepared anew" in caplog.text
    assert (corpus.sha256, text_of(corpus)) == (before, TEXT)


@pytest.mark.parametrize("field", ["dtype", "gain", "rate", "quantiser", "warnings", "skipped", "splits"])
@pytest.mark.parametrize("value", ["|O", 4_000, -1, None, [[]], {}, 1e999])
def test_a_manifest_of_clips_is_trusted_no_more(
    clips: Path, tmp_path: Path, field: str, value: object, caplog: pytest.LogCaptureFixture
) -> None:
    config = AudioDataConfig(str(clips), "folder", RATE, cache=str(tmp_path / "cache"))
    before = prepare_clips(config)
    change(
        tmp_path / "cache",
        lambda manifest, _: (manifest["splits"]["train"] if field == "dtype" else manifest).update({field: value}),
    )
    after = prepare_clips(config)
    assert (after.rate, after.quantiser) == (before.rate, before.quantiser)
    if (field, value) != ("gain", 4_000):  # a gain that may be; the checkpoint's hash of the data refuses it
        assert after.sha256 == before.sha256


def test_a_manifest_nested_without_end_is_made_anew(config: DataConfig, tmp_path: Path) -> None:
    before = prepare(config).sha256
    (path,) = (tmp_path / "cache").glob("*/manifest.json")
    path.write_text("[" * 10**6)
    assert prepare(config).sha256 == before


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_file_that_becomes_shorter_in_use_is_an_error_and_no_signal(tmp_path: Path, dtype: str) -> None:
    text = " ".join(str(number) for number in range({"|u1": 9, "<u2": 999, "<u4": 80_000}[dtype]))
    (tmp_path / "text.txt").write_text(text)
    data = DataConfig(str(tmp_path / "text.txt"), "words", SplitConfig(0.9, 0.1), str(tmp_path / "cache"))
    tokens = prepare(data).splits["train"].tokens
    assert tokens.dtype == np.dtype(dtype)
    assert type(tokens[:3]) is np.ndarray
    assert pickle.loads(pickle.dumps(tokens))[-1] == tokens[-1]
    (path,) = (tmp_path / "cache").glob("*/train.bin")
    os.truncate(path, path.stat().st_size - 1)
    for index in (-1, slice(3), np.array([0, 1])):
        with pytest.raises(InputError, match=r"train\.bin: became shorter while it was in use"):
            tokens[index]


def test_what_a_killed_preparation_left_is_deleted_and_what_runs_is_not(config: DataConfig, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    prepare(config)
    dead, alive, foreign, link = (cache / name for name in (f"{PREFIX}dead", f"{PREFIX}alive", ".tmp-x", f"{PREFIX}l"))
    for folder in (dead, alive, foreign):
        folder.mkdir()
        (folder / "train.float32").write_bytes(bytes(100))
    link.symlink_to(foreign)
    lock = os.open(alive, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    with atomic_folder(cache / "mine") as mine:
        prepare(config)  # also where nothing is to be prepared
        assert mine.exists()
    assert not dead.exists()
    assert all((folder / "train.float32").exists() for folder in (alive, foreign))
    os.close(lock)
    prepare(config)
    assert not alive.exists()


def test_a_full_disk_is_named_as_the_cache_s(config: DataConfig, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))  # as a full disk, a write fails that has no path
    try:
        with pytest.raises(UserError) as caught:
            prepare(config)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(caught.value).startswith(f"data.cache: {tmp_path / 'cache'}: cannot be written: File too large")
    assert not list((tmp_path / "cache").iterdir())


def test_clips_that_unpack_to_more_than_the_disk_holds_are_refused_before_it_is_full(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = AudioDataConfig(str(clips), "folder", RATE, cache=str(tmp_path / "cache"))
    usage = type("Usage", (), {"free": 2**26 + 100})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    words = r"cache: cannot be written: No space left on device: .*\.flac needs 0\.0 MiB, 64\.0 MiB are free"
    with pytest.raises(UserError, match=words):
        prepare_clips(config)
    assert not list((tmp_path / "cache").iterdir())


@pytest.mark.parametrize("cache", ["text.txt", "text.txt/deeper", "/proc/nowhere"])
def test_a_cache_that_cannot_be_made_is_named(config: DataConfig, tmp_path: Path, cache: str) -> None:
    with pytest.raises(UserError, match=r"data\.cache: .*: cannot be written"):
        prepare(DataConfig(config.path, "bytes", config.split, str(tmp_path / cache)))
