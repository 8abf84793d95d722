"""Layouts: the clips of each split, the labels torchaudio gives them, and a word on every name that does not fit."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from audio import datasets, waveform
from audio.config import DataConfig
from audio.corpus import prepare
from audio.datasets import ClipDataset, download_if_missing
from audio.layouts import find_sources
from audio.splits import assign_splits, deal
from lm.config import SplitConfig
from tests.audio.synthetic import RATE, sine
from training.errors import InputError

SHARED = Path(__file__).parents[3] / "shared" / "data"


def record(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, sine(300, 0.01, RATE), RATE)


def config(root: Path, layout: str, **fields: object) -> DataConfig:
    return DataConfig(str(root), layout, RATE, **fields)  # type: ignore[arg-type]


def splits(root: Path, layout: str, **fields: object) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    data = config(root, layout, **fields)
    sources = find_sources(data)
    for split, source in zip(assign_splits(data, sources), sources, strict=True):
        found.setdefault(split, []).append(source.path.relative_to(root).as_posix())
    return found


@given(count=st.integers(0, 60), train=st.floats(0.1, 1), validation=st.floats(0.1, 1), test=st.floats(0, 1))
def test_clips_are_spread_in_proportion_and_evenly(count: int, train: float, validation: float, test: float) -> None:
    shares = {"train": train, "validation": validation, "test": test}
    chosen = deal([1] * count, SplitConfig(**shares))
    for stop in range(count + 1):
        counts = Counter(chosen[:stop])
        for name, share in shares.items():
            assert abs(counts[name] - stop * share / sum(shares.values())) < 2


def test_a_folder_of_clips_alone_is_cut_and_one_of_splits_is_not(tmp_path: Path) -> None:
    record(*(tmp_path / "all" / f"{i:02}.wav" for i in range(20)))
    found = splits(tmp_path / "all", "folder")
    assert {name: len(paths) for name, paths in found.items()} == {"train": 18, "validation": 2}
    record(tmp_path / "cut" / "train" / "deep" / "a.FLAC", tmp_path / "cut" / "validation" / "b.wav")
    assert splits(tmp_path / "cut", "folder") == {"train": ["train/deep/a.FLAC"], "validation": ["validation/b.wav"]}


def ljspeech(root: Path) -> Path:
    record(*(root / "wavs" / f"LJ-{i}.{'wav' if i else 'flac'}" for i in range(10)))
    lines = [f'LJ-{i}|"Said" {i}|said {i}' for i in range(10)]
    (root / "metadata.csv").write_text("\n".join(lines) + "\n")
    return root


def test_ljspeech_follows_its_lists_and_without_them_its_metadata(tmp_path: Path) -> None:
    root = ljspeech(tmp_path / "LJSpeech-1.1")
    assert {name: len(paths) for name, paths in splits(root, "ljspeech").items()} == {"train": 9, "validation": 1}
    (root / "train.txt").write_text("LJ-3\nLJ-0\n")
    (root / "valid.txt").write_text("LJ-5|text\n")
    expected = {"train": ["wavs/LJ-3.wav", "wavs/LJ-0.flac"], "validation": ["wavs/LJ-5.wav"]}
    assert splits(root, "ljspeech") == expected
    waves, rate, transcript, normalised = ClipDataset(config(root, "ljspeech"))[1]
    assert isinstance(waves, datasets.Tensor)
    assert (waves.shape, rate, transcript, normalised) == ((1, 80), RATE, '"Said" 0', "said 0")
    (root / "train.txt").write_text("LJ-3\nLJ-5\n")
    with pytest.raises(InputError, match="'LJ-5' is listed twice, in train and in validation"):
        find_sources(config(root, "ljspeech"))


def test_an_id_that_is_a_path_or_has_no_file_is_skipped_with_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = ljspeech(tmp_path / "LJSpeech-1.1")
    (root / "train.txt").write_text("LJ-3\nLJ-404\n..\nLJ 1\n../metadata\nother/LJ-9x\nA\tB\n")
    (root / "valid.txt").write_text("LJ-5\n")
    corpus = prepare(config(root, "ljspeech", cache=str(tmp_path / "cache")))
    assert len(corpus.splits["train"].starts) == 1
    assert "LJ-404.wav: cannot be opened: No such file" in caplog.text
    assert "its id '..' is not a plain name" in caplog.text
    assert "LJ 1.wav: cannot be opened: No such file" in caplog.text
    assert "its id '../metadata' names no clip in wavs/" in caplog.text
    assert "its id 'other/LJ-9x' names no clip in wavs/" in caplog.text
    assert "its id 'A\\tB' is not a plain name" in caplog.text


def test_ids_are_found_however_they_are_written(tmp_path: Path) -> None:
    """Dots, a format, a folder, another case of the format, other letters, spaces, and letters in two Unicode forms."""
    root = tmp_path / "LJSpeech-1.1"
    files = ["rec.01.wav", "rec.02.wav", "LJ-1.WAV", "LJ-2.Flac", "речь 1.wav", unicodedata.normalize("NFD", "й.wav")]
    record(*(root / "wavs" / name for name in [*files, "a/LJ-3.wav", "._LJ-1.wav"]))
    ids = ["rec.01", "rec.02.wav", "wavs/LJ-1.wav", "LJ-2", "речь 1", "й", "a/LJ-3"]
    (root / "metadata.csv").write_text("".join(f"{clip_id}|text {i}|said {i}\n" for i, clip_id in enumerate(ids)))
    sources = find_sources(config(root, "ljspeech"))
    assert [source.path.relative_to(root / "wavs").as_posix() for source in sources] == [*files, "a/LJ-3.wav"]
    assert [source.labels for source in sources] == [(f"text {i}", f"said {i}") for i in range(7)]
    (root / "train.txt").write_text("DUMMY/LJ-1.wav|text\nrec.01\n")
    (root / "valid.txt").write_text("rec.02\nречь 1\n")
    assert splits(root, "ljspeech") == {
        "train": ["wavs/LJ-1.WAV", "wavs/rec.01.wav"],
        "validation": ["wavs/rec.02.wav", "wavs/речь 1.wav"],
    }
    (root / "valid.txt").write_text("wavs/rec.01.wav\n")
    with pytest.raises(InputError, match=r"'rec\.01' is listed twice"):
        find_sources(config(root, "ljspeech"))


def test_lines_end_at_line_feeds_alone_and_a_byte_order_mark_is_none_of_the_first_id(tmp_path: Path) -> None:
    root = ljspeech(tmp_path / "LJSpeech-1.1")
    odd = "one\u2028LJ-9|two\x85three\x1cfour\x0bfive"
    (root / "metadata.csv").write_bytes(f"\ufeffLJ-0|{odd}\r\nLJ-1|said\n".encode())
    sources = find_sources(config(root, "ljspeech"))
    assert [source.path.stem for source in sources] == ["LJ-0", "LJ-1"]
    assert sources[0].labels == ("one\u2028LJ-9", "two\x85three\x1cfour\x0bfive")
    (root / "train.txt").write_bytes("\ufeffLJ-1\n".encode())
    (root / "valid.txt").write_bytes("\ufeffLJ-0\n".encode())
    assert splits(root, "ljspeech") == {"train": ["wavs/LJ-1.wav"], "validation": ["wavs/LJ-0.flac"]}
    commands = speechcommands(tmp_path / "commands")
    (commands / "testing_list.txt").write_bytes("\ufeffone/ann_nohash_0.wav\n".encode())
    assert splits(commands, "speechcommands")["test"] == ["one/ann_nohash_0.wav"]


@pytest.mark.parametrize("layout", ["folder", "librispeech", "speechcommands"])
def test_twins_of_macos_and_hidden_folders_are_no_clips(tmp_path: Path, layout: str) -> None:
    root = tmp_path / "clips"
    names = {
        "folder": ("train/a.wav", "validation/b.wav"),
        "librispeech": ("train-a/1/2/1-2-3.wav", "dev-a/4/5/4-5-6.wav"),
        "speechcommands": ("one/a_nohash_0.wav", "one/b_nohash_0.wav"),
    }[layout]
    record(*(root / name for name in names), *(root / Path(name).parent / ".trash" / "c.wav" for name in names))
    for name in names:
        (root / name).with_name(f"._{Path(name).name}").write_bytes(b"\0\5\x16\7" + bytes(4_092))
    assert sorted(source.path.relative_to(root).as_posix() for source in find_sources(config(root, layout))) == sorted(
        names
    )


def test_sound_of_other_formats_is_named_with_what_reads_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "clips").mkdir()
    for name in ("a.mp3", "b.MP3", "c.opus", "d.ogg"):
        (tmp_path / "clips" / name).touch()
    with pytest.raises(InputError) as caught:
        find_sources(config(tmp_path / "clips", "folder"))
    assert "files in .mp3 that are not read: 2; convert each to WAV or FLAC: ffmpeg -i NAME.mp3" in str(caught.value)
    assert "files in .opus that are not read: 1; convert" in str(caught.value)
    assert "files in .ogg that are not read: 1; data.formats=[wav,flac,ogg] reads them" in str(caught.value)
    record(tmp_path / "clips" / "e.wav")
    assert len(find_sources(config(tmp_path / "clips", "folder"))) == 1
    assert "files in .mp3 that are not read: 2" in caplog.text


def test_librispeech_parts_are_splits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = tmp_path / "LibriSpeech"
    names = {"train-clean-100": "103-1240-0000", "dev-clean": "84-121123-0001", "test-clean": "61-70968-0002"}
    for part, name in names.items():
        speaker, chapter, _ = name.split("-")
        record(root / part / speaker / chapter / f"{name}.flac")
    (root / "train-clean-100/103/1240/103-1240.trans.txt").write_text("103-1240-0000 CHAPTER ONE\n")
    (root / "intro-disclaimers").mkdir()
    expected = [(names[part], split) for part, split in zip(names, ("train", "validation", "test"), strict=True)]
    for path in (root, tmp_path):  # torchaudio's root is the folder above
        assert [(s.path.stem, s.split) for s in find_sources(config(path, "librispeech"))] == expected
    item = ClipDataset(config(root, "librispeech"))[0]
    assert item[1:] == (RATE, "CHAPTER ONE", 103, 1240, 0)
    record(root / "dev-clean/84/121123/surplus.flac")
    prepare(config(root, "librispeech", cache=str(tmp_path / "cache")))
    assert "surplus.flac: is not named speaker-chapter-utterance" in caplog.text


def speechcommands(root: Path) -> Path:
    record(
        *(root / word / f"{s}_nohash_{k}.wav" for word in ("one", "two", "yes") for s in ("ann", "bob") for k in (0, 1))
    )
    record(root / "_background_noise_" / "hum.wav")
    (root / "testing_list.txt").write_text("one/ann_nohash_0.wav\nyes/bob_nohash_1.wav\n")
    (root / "validation_list.txt").write_text("two/bob_nohash_0.wav\n")
    return root


def test_speech_commands_follow_their_lists(tmp_path: Path) -> None:
    root = speechcommands(tmp_path / "commands")
    found = splits(root, "speechcommands")
    assert found["test"] == ["one/ann_nohash_0.wav", "yes/bob_nohash_1.wav"]
    assert found["validation"] == ["two/bob_nohash_0.wav"]
    assert len(found["train"]) == 9
    assert not any("_background_noise_" in path for paths in found.values() for path in paths)
    digits = splits(root, "speechcommands", words=("one", "two"))
    assert {name: len(paths) for name, paths in digits.items()} == {"train": 6, "validation": 1, "test": 1}
    item = ClipDataset(config(root, "speechcommands"), "test")[0]
    assert item[1:] == (RATE, "one", "ann", 0)
    with pytest.raises(InputError, match="has no folder three; it has one, two, yes"):
        find_sources(config(root, "speechcommands", words=("one", "three")))
    (root / "validation_list.txt").unlink()
    without = splits(root, "speechcommands")
    assert {name: len(paths) for name, paths in without.items()} == {"train": 9, "validation": 1, "test": 2}


def test_commands_that_do_not_fit_are_skipped_with_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = speechcommands(tmp_path / "commands")
    record(root / "one" / "plain.wav")
    with (root / "testing_list.txt").open("a") as file:
        names = ["two/absent_nohash_3.wav", "one/../../../etc/passwd_nohash_0.wav", "/etc/passwd_nohash_0.wav"]
        file.write("\n".join([*names, "../x_nohash_0.wav", ""]))
    prepare(config(root, "speechcommands", cache=str(tmp_path / "cache")))
    assert "'one/plain.wav' is not named WORD/SPEAKER_nohash_NUMBER" in caplog.text
    assert "absent_nohash_3.wav: cannot be opened" in caplog.text
    for name in ("one/../../../etc/passwd_nohash_0.wav", "/etc/passwd_nohash_0.wav", "../x_nohash_0.wav"):
        assert f"{name!r} is not named" in caplog.text


def test_what_torchaudio_lists_is_what_is_found(tmp_path: Path) -> None:
    torchaudio = waveform.torchaudio_module()
    if torchaudio is None:
        pytest.skip("torchaudio does not import beside this torch")
    root = speechcommands(tmp_path / "SpeechCommands" / "speech_commands_v0.02")
    for split, subset in (("train", "training"), ("validation", "validation"), ("test", "testing")):
        theirs = torchaudio.datasets.SPEECHCOMMANDS(tmp_path, subset=subset)
        mine = ClipDataset(config(root, "speechcommands"), split)
        labels = {theirs.get_metadata(i)[2:] for i in range(len(theirs))}
        assert {source.labels for source, _ in mine.clips} == labels


def test_what_is_missing_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent: there is no such folder\nfetch it(.|\n)*data\.path=WHERE"):
        find_sources(config(tmp_path / "absent", "folder", origin="fetch it"))
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is not a folder"):
        find_sources(config(tmp_path / "file", "folder"))
    (tmp_path / "empty").mkdir()
    for layout in ("folder", "librispeech", "speechcommands"):
        with pytest.raises(InputError, match=f"has no clip for train in the layout {layout}"):
            find_sources(config(tmp_path / "empty", layout))
    with pytest.raises(InputError, match=r"metadata\.csv: cannot be opened: No such file"):
        find_sources(config(tmp_path / "empty", "ljspeech"))
    os.mkfifo(tmp_path / "empty" / "metadata.csv")
    with pytest.raises(InputError, match=r"metadata\.csv: is not a regular file"):
        find_sources(config(tmp_path / "empty", "ljspeech"))
    (tmp_path / "empty" / "metadata.csv").unlink()
    (tmp_path / "empty" / "metadata.csv").write_bytes(b"a|\xff\n")
    with pytest.raises(InputError, match=r"metadata\.csv: byte 2: is not UTF-8"):
        find_sources(config(tmp_path / "empty", "ljspeech"))


class FakeTorchaudio:
    """Stands for a network: notes what is asked for, and makes it or fails."""

    def __init__(self, error: Exception | None = None) -> None:
        self.datasets = self
        self.asked: list[tuple[str, str]] = []
        self.error = error

    def LJSPEECH(self, root: Path, download: bool) -> None:
        self._make("LJSPEECH", root)
        ljspeech(root / "LJSpeech-1.1")

    def LIBRISPEECH(self, root: Path, url: str, download: bool) -> None:
        self._make(url, root)

    def SPEECHCOMMANDS(self, root: Path, url: str, download: bool) -> None:
        self._make(url, root)

    def _make(self, what: str, root: Path) -> None:
        if self.error:
            raise self.error
        self.asked.append((what, root.name))


def test_torchaudio_fetches_what_is_missing_where_it_is_asked_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeTorchaudio()
    monkeypatch.setattr(waveform, "torchaudio_module", lambda: fake)

    def fetch(path: Path, layout: str) -> None:
        download_if_missing(config(path, layout, download=True))

    lj = config(tmp_path / "data" / "LJSpeech-1.1", "ljspeech", download=True, cache=str(tmp_path / "cache"))
    with pytest.raises(InputError, match="there is no such folder"):  # what evaluates a run goes to no network
        prepare(lj)
    assert not (tmp_path / "data").exists()
    download_if_missing(config(tmp_path / "data" / "LJSpeech-1.1", "ljspeech"))
    assert not fake.asked
    download_if_missing(lj)
    assert len(prepare(lj).splits["train"].starts) == 9
    download_if_missing(lj)
    assert fake.asked == [("LJSPEECH", "data")]
    fetch(tmp_path / "SpeechCommands" / "speech_commands_v0.02", "speechcommands")
    fetch(tmp_path / "data" / "LibriSpeech", "librispeech")
    assert fake.asked[1:] == [
        ("speech_commands_v0.02", tmp_path.name),
        *((part, "data") for part in datasets.LIBRISPEECH_PARTS),
    ]
    with pytest.raises(InputError, match=r"expected data\.path to end in LJSpeech-1\.1"):
        fetch(tmp_path / "mine", "ljspeech")
    with pytest.raises(InputError, match="no data set in the layout folder"):
        fetch(tmp_path / "mine", "folder")
    fake.error = OSError("no network")
    with pytest.raises(InputError, match=r"could not fetch ljspeech to .*: no network"):
        fetch(tmp_path / "other" / "LJSpeech-1.1", "ljspeech")


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} is not there")
def test_the_shared_sets_are_read_whole() -> None:
    of_speech = DataConfig(str(SHARED / "speech-en24"), "ljspeech", 24_000)
    speech = find_sources(of_speech)
    assert Counter(assign_splits(of_speech, speech)) == {"train": 1019, "validation": 57}
    of_digits = DataConfig(str(SHARED / "digits8"), "speechcommands", 8_000)
    digits = find_sources(of_digits)
    assert Counter(assign_splits(of_digits, digits)) == {"train": 2430, "validation": 270, "test": 300}
    clip = waveform.read(speech[0].path)
    assert clip.rate == 24_000
    assert np.abs(clip.samples).max() <= 1
