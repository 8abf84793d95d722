"""Corpora of clips: what is prepared is what was recorded, under one gain; what cannot be used is said."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audio import mu_law, waveform
from audio.config import DataConfig
from audio.corpus import prepare
from audio.quantiser import QUANTISERS
from tests.audio.synthetic import RATE, noise, sine
from training.errors import InputError

QUANTISER_NAMES = sorted(QUANTISERS)


def config(clips: Path, **fields: object) -> DataConfig:
    given = {"layout": "folder", "sample_rate": RATE, "cache": str(clips.parent / "cache"), **fields}
    return DataConfig(str(clips), **given)  # type: ignore[arg-type]


@pytest.mark.parametrize("quantiser", QUANTISER_NAMES)
def test_codes_are_the_clips_one_after_the_other_under_one_gain(clips: Path, quantiser: str) -> None:
    corpus = prepare(config(clips, quantiser=quantiser))
    assert list(corpus.splits) == ["train", "validation", "test"]
    loudest = max(np.abs(waveform.read(path).samples).max() for path in (clips / "train").iterdir())
    assert corpus.gain == pytest.approx(1 / loudest)
    for name, split in corpus.splits.items():
        paths = sorted((clips / name).iterdir(), key=lambda path: hashlib.sha256(path.read_bytes()).hexdigest())
        clip_samples = [waveform.read(path).samples for path in paths]
        assert split.starts.tolist() == np.cumsum([0, *map(len, clip_samples[:-1])]).tolist()
        recorded = (np.concatenate(clip_samples) * np.float32(corpus.gain)).clip(-1, 1)
        error = np.abs(corpus.quantiser.decode(np.asarray(split.tokens)) - recorded)
        bound = mu_law.error_bound(recorded) if quantiser == "mu_law_256" else np.float64(2**-15)
        assert (error <= bound + 1e-6).all()
    assert np.abs(corpus.quantiser.decode(np.asarray(corpus.splits["train"].tokens))).max() == pytest.approx(
        1, abs=1e-4
    )


def test_the_order_of_clips_is_not_that_of_their_names(clips: Path) -> None:
    before = prepare(config(clips))
    for number, path in enumerate(sorted((clips / "train").iterdir(), reverse=True)):
        path.rename(path.with_name(f"renamed{number}{path.suffix}"))
    assert prepare(config(clips)).sha256 == before.sha256


def test_sixteen_bits_keep_every_sample_of_a_sixteen_bit_file(tmp_path: Path) -> None:
    samples = np.arange(-32_768, 32_768, 7, dtype=np.int16)
    for split in ("train", "validation"):
        (tmp_path / "clips" / split).mkdir(parents=True)
        soundfile.write(tmp_path / "clips" / split / "a.wav", samples, RATE)
    split = prepare(config(tmp_path / "clips", quantiser="logistic_16", gain=1.0)).splits["train"]
    assert (np.asarray(split.tokens).astype(int) - 32_768).tolist() == samples.tolist()


def test_a_corpus_is_prepared_once_and_anew_when_a_clip_or_a_setting_changes(clips: Path) -> None:
    first = prepare(config(clips))
    written = {path: path.stat().st_mtime_ns for path in (clips.parent / "cache").rglob("*.bin")}
    assert prepare(config(clips)).sha256 == first.sha256
    assert {path: path.stat().st_mtime_ns for path in (clips.parent / "cache").rglob("*.bin")} == written
    damaged = next(iter(written))
    damaged.write_bytes(b"x" + damaged.read_bytes()[1:])
    assert prepare(config(clips)).sha256 == first.sha256

    others: list[dict[str, object]] = [
        {"gain": 1.0},
        {"quantiser": "logistic_16"},
        {"sample_rate": 4_000, "resample": True},
    ]
    assert len({first.sha256, *(prepare(config(clips, **other)).sha256 for other in others)}) == 4
    soundfile.write(clips / "train" / "0.flac", noise(0.05, RATE), RATE)
    assert prepare(config(clips)).sha256 != first.sha256
    assert not list((clips.parent / "cache").glob(".tmp-*"))


def test_the_manifest_says_what_was_made_of_what(clips: Path) -> None:
    prepare(config(clips))
    (path,) = (clips.parent / "cache").rglob("manifest.json")
    manifest = json.loads(path.read_text())
    assert {"rate", "gain", "quantiser", "sources", "skipped", "splits"} <= manifest.keys()
    assert len(manifest["sources"]) == 6
    assert manifest["splits"]["train"]["clipped"] == 0
    assert not list(path.parent.glob("*.float32"))


def spoil(folder: Path) -> dict[str, str]:
    """Put every kind of bad clip into a folder; the reason expected of each."""
    soundfile.write(folder / "rate.wav", sine(440, 0.01, 11_025), 11_025)
    (folder / "text.wav").write_text("not a sound, whatever its name says " * 3)
    (folder / "empty.flac").touch()
    whole = folder / "cut.wav"
    soundfile.write(whole, sine(440, 0.01, RATE), RATE)
    whole.write_bytes(whole.read_bytes()[:-40])
    os.mkfifo(folder / "fifo.wav")
    (folder / "dangling.wav").symlink_to("nowhere.wav")
    (folder / "loop.wav").symlink_to("loop.wav")
    (folder / "elsewhere").symlink_to("/tmp")
    return {
        "rate.wav": "has 11025 samples a second, expected data.sample_rate = 8000",
        "text.wav": "is not a RIFF/WAVE file",
        "empty.flac": "is empty",
        "cut.wav": "declares 204 bytes and has 164",
        "fifo.wav": "is not a regular file",
        "dangling.wav": "cannot be opened: No such file",
        "loop.wav": "cannot be opened: Too many levels of symbolic links",
        "elsewhere": "is not one of the formats",
    }


def test_bad_clips_are_skipped_with_reason_and_count_or_refused_if_strict(
    clips: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clean = prepare(config(clips))
    expected = spoil(clips / "train")
    for _ in range(2):  # when it is made, and when it comes from the cache
        caplog.clear()
        corpus = prepare(config(clips))
        assert corpus.sha256 == clean.sha256
        assert f"{len(expected)} of {6 + len(expected)} clips cannot be used" in caplog.text
        for name, reason in expected.items():
            assert f"{clips / 'train' / name}: {reason}" in caplog.text
    for path in ("cache", "another"):
        with pytest.raises(InputError, match="8 of 14 clips cannot be used"):
            prepare(config(clips, strict=True, cache=str(clips.parent / path)))


def test_a_split_of_bad_clips_alone_is_an_error(clips: Path) -> None:
    for path in (clips / "validation").iterdir():
        path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(InputError, match=r"no clip of validation can be used\n2 clips(.|\n)*0\.flac: "):
        prepare(config(clips))
    assert not list((clips.parent / "cache").iterdir())


def test_nothing_stays_of_a_recording_that_proves_wrong_at_its_end(clips: Path) -> None:
    soundfile.write(clips / "train" / "wrong.flac", sine(440, 0.5, RATE), RATE)
    raw = bytearray((clips / "train" / "wrong.flac").read_bytes())
    raw[26] ^= 1  # the first byte of the checksum of all samples
    (clips / "train" / "wrong.flac").write_bytes(raw)
    cut = {"clip_seconds": 0.02, "quantiser": "logistic_16"}
    with_wrong = prepare(config(clips, **cut))
    (clips / "train" / "wrong.flac").unlink()
    assert prepare(config(clips, **cut)).sha256 == with_wrong.sha256


def test_silence_and_clips_of_one_sample_are_defined(clips: Path) -> None:
    soundfile.write(clips / "train" / "silence.wav", np.zeros(30), RATE)
    soundfile.write(clips / "train" / "one.wav", np.full(1, 0.1), RATE)
    assert prepare(config(clips)).splits["train"].starts.shape == (5,)
    for path in (clips / "train").iterdir():
        path.unlink()
    soundfile.write(clips / "train" / "silence.wav", np.zeros(30), RATE)
    with pytest.raises(InputError, match=r"every clip of train is silent; data\.gain=1"):
        prepare(config(clips))
    assert set(np.asarray(prepare(config(clips, gain=1.0)).splits["train"].tokens).tolist()) == {128}


def test_a_held_out_clip_that_is_in_train_is_pointed_out(clips: Path, caplog: pytest.LogCaptureFixture) -> None:
    prepare(config(clips))
    assert "in train too" not in caplog.text
    (clips / "test" / "again.wav").write_bytes((clips / "train" / "1.wav").read_bytes())
    prepare(config(clips))
    assert f"1 held-out clips are in train too, {clips / 'test' / 'again.wav'} the first" in caplog.text


def test_samples_beyond_full_scale_are_counted(clips: Path, caplog: pytest.LogCaptureFixture) -> None:
    prepare(config(clips, gain=4.0))
    assert "are beyond full scale under the gain 4" in caplog.text


def test_a_rate_is_converted_only_where_it_is_asked_for(clips: Path) -> None:
    with pytest.raises(InputError, match=r"data\.resample=true converts it"):
        prepare(config(clips, sample_rate=4_000))
    half, whole = prepare(config(clips, sample_rate=4_000, resample=True)), prepare(config(clips))
    assert len(half.splits["train"].tokens) == pytest.approx(len(whole.splits["train"].tokens) / 2, abs=3)


def test_silence_around_a_clip_is_cut_only_where_it_is_asked_for(clips: Path) -> None:
    padded = np.concatenate([np.zeros(6_000), sine(440, 0.5, RATE), np.zeros(6_000)])
    soundfile.write(clips / "validation" / "0.flac", padded, RATE)
    whole, trimmed = (prepare(config(clips, trim_db=decibels)).splits["validation"] for decibels in (None, 40.0))
    assert len(whole.tokens) - len(trimmed.tokens) > 8_000
    assert len(trimmed.tokens) > 4_000
