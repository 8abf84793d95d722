"""How clips are dealt: over those that can be used, every split with a share, and by speaker where names tell."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audio.config import DataConfig
from audio.corpus import AudioCorpus, prepare
from audio.datasets import ClipDataset
from audio.splits import deal
from lm.config import SplitConfig
from tests.audio.synthetic import RATE, noise
from training.errors import InputError


def record(folder: Path, *names: str, seconds: float = 0.01) -> None:
    for index, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / name, noise(seconds + index / RATE, RATE, index), RATE)


def config(folder: Path, **fields: object) -> DataConfig:
    given = {"layout": "folder", "sample_rate": RATE, "cache": str(folder.parent / "cache"), **fields}
    return DataConfig(str(folder), **given)  # type: ignore[arg-type]


def counts(corpus: AudioCorpus) -> dict[str, int]:
    return {name: len(split.starts) for name, split in corpus.splits.items()}


@pytest.mark.parametrize("bad", range(10))
def test_a_bad_clip_takes_no_place_in_a_split(tmp_path: Path, bad: int) -> None:
    """Ten clips, nine to one: whichever cannot be used, one of the nine others is held out."""
    clips = tmp_path / "clips"
    record(clips, *(f"{index}.wav" for index in range(10)))
    (clips / f"{bad}.wav").write_text("no sound")
    assert counts(prepare(config(clips))) == {"train": 8, "validation": 1}


def test_the_dataset_deals_as_the_corpus_does(tmp_path: Path) -> None:
    clips = tmp_path / "clips"
    record(clips, *(f"{index}.wav" for index in range(12)), seconds=0.1)
    (clips / "3.wav").write_text("no sound")
    for fields in ({}, {"clip_seconds": 0.03}):
        data = config(clips, split=SplitConfig(0.6, 0.3, 0.1), quantiser="logistic_16", gain=1.0, **fields)
        for name, split in prepare(data).splits.items():
            lengths = np.diff([*split.starts, len(split.tokens)]).tolist()
            items = ClipDataset(data, name)
            assert Counter(items[i][0].shape[1] for i in range(len(items))) == Counter(lengths)  # type: ignore[union-attr]


def test_a_test_split_of_bad_clips_is_left_out_with_a_word(clips: Path, caplog: pytest.LogCaptureFixture) -> None:
    for path in (clips / "test").iterdir():
        path.write_text("no sound")
    for _ in range(2):  # when it is made, and when it comes from the cache
        caplog.clear()
        assert list(prepare(config(clips)).splits) == ["train", "validation"]
        assert "no clip of test can be used, so there is no test split" in caplog.text
        assert "damaged" not in caplog.text


def test_no_clip_at_all_is_one_message(tmp_path: Path) -> None:
    record(tmp_path / "clips", "0.wav", "1.wav")
    for path in (tmp_path / "clips").iterdir():
        path.write_text("no sound")
    with pytest.raises(InputError, match=r"no clip can be used\n2 clips cannot be used"):
        prepare(config(tmp_path / "clips"))


@pytest.mark.parametrize("count", range(2, 12))
def test_few_clips_give_every_split_with_a_share_one(count: int) -> None:
    assert set(deal([1] * count, SplitConfig(0.9, 0.1))) == {"train", "validation"}
    if count > 2:
        assert set(deal([1] * count, SplitConfig(0.8, 0.1, 0.1))) == {"train", "validation", "test"}


def test_a_long_recording_is_cut_on_request(tmp_path: Path) -> None:
    clips = tmp_path / "clips"
    record(clips, "long.wav", seconds=1)
    with pytest.raises(InputError, match=r"1 clip to share out leave none for validation; .*data\.clip_seconds=10"):
        prepare(config(clips))
    corpus = prepare(config(clips, clip_seconds=0.05))
    assert counts(corpus) == {"train": 18, "validation": 2}
    assert len(corpus.splits["train"].tokens) == 18 * 400


def test_clips_are_dealt_by_speaker_where_names_tell(tmp_path: Path) -> None:
    for kind, names in {
        "folders": [f"p{index % 4}/{index}.wav" for index in range(40)],
        "prefixes": [f"p{index % 4}_{index}.wav" for index in range(40)],
    }.items():
        clips = tmp_path / kind
        record(clips, *names)
        data = config(clips, split_by="speaker", split=SplitConfig(0.75, 0.25))
        held_out, trained = (
            {str(item[-1])[:2] for item in (clips_of[i] for i in range(len(clips_of)))}
            for clips_of in (ClipDataset(data, "validation"), ClipDataset(data))
        )
        assert len(held_out) == 1
        assert len(trained) == 3
        assert not held_out & trained
        assert counts(prepare(data)) == {"train": 30, "validation": 10}
    record(tmp_path / "nameless", "1.wav", "2.wav")
    with pytest.raises(InputError, match=r"1\.wav: its name tells no speaker; expected SPEAKER/NAME"):
        prepare(config(tmp_path / "nameless", split_by="speaker"))
    record(tmp_path / "one", "ann_1.wav", "ann_2.wav")
    with pytest.raises(InputError, match="1 speaker to share out leave none for validation"):
        prepare(config(tmp_path / "one", split_by="speaker"))


def test_speakers_of_speech_commands_are_held_out_whole(tmp_path: Path) -> None:
    root = tmp_path / "commands"
    record(root, *(f"{word}/{who}_nohash_0.wav" for word in ("yes", "да") for who in ("ann", "bob", "eve", "анна")))
    data = config(root, layout="speechcommands", split_by="speaker", words=("yes", "да"))
    voices = {name: {item[3] for item in map(ClipDataset(data, name).__getitem__, range(n))}
              for name, n in (("train", 6), ("validation", 2))}  # fmt: skip
    assert len(voices["validation"]) == 1
    assert not voices["train"] & voices["validation"]


@pytest.mark.parametrize("hot", [1, 2])
def test_a_few_hot_clips_that_set_the_gain_are_pointed_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, hot: int
) -> None:
    for split, count in {"train": 30, "validation": 2}.items():
        for index in range(count):
            (tmp_path / "clips" / split).mkdir(parents=True, exist_ok=True)
            samples = noise(0.01, RATE, index)
            samples[0] = 7.87 if split == "train" and index < hot else 0.9
            soundfile.write(tmp_path / "clips" / split / f"{index:02}.wav", samples, RATE, subtype="FLOAT")
    for _ in range(2):  # when it is made, and when it comes from the cache
        caplog.clear()
        assert prepare(config(tmp_path / "clips")).gain == pytest.approx(0.127, abs=1e-3)
        assert f"data.gain=peak is 0.127 because of {hot} of 30 clips" in caplog.text
        assert "00.wav (peak 7.87)" in caplog.text
        assert "data.gain=1.11 would fit all others" in caplog.text
