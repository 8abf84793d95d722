"""The command line on audio: train, hear, resume, evaluate, generate, report; what a mistake says."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import wave
from pathlib import Path

import pytest
import soundfile
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import memory_cores
from audio import datasets, waveform
from audio.config import ExperimentConfig
from reverie.cli import main
from reverie.experiment import ConfigError, dump, load_experiment
from reverie.metrics_file import read_rows
from reverie.run_folder import newest_checkpoint
from reverie.shipped_configs import find_config, shipped_configs
from tests.audio.synthetic import RATE, noise, sine
from tests.equality import same

ROOT = Path(__file__).parents[2]
CONFIG = """
data: {path: clips, layout: folder, sample_rate: 8000, cache: cache, formats: [wav]}
core: {name: lstm, d_model: 16}
train: {total_tokens: 1280, batch_size: 4, segment_length: 8, evaluation_interval: 10, log_interval: 5,
        checkpoint_interval: 10, learning_rate: 1e-2,
        audio_samples: {interval: 20, seconds: 0.01, prompt_seconds: 0.004, clips: 2}}
run: {name: run}
"""
CLOCK = ("time", "seconds", "throughput/steps_per_second")


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    for split, count in {"train": 3, "validation": 2}.items():
        (Path("clips") / split).mkdir(parents=True)
        for index in range(count):
            sound = sine(300 + 50 * index, 0.02 + 0.01 * index, RATE) + noise(0.02 + 0.01 * index, RATE, index, 0.01)
            soundfile.write(f"clips/{split}/{index}.wav", sound, RATE)
    Path("experiment.yaml").write_text(CONFIG)
    return "experiment.yaml"


def logged(name: str) -> list[dict[str, float]]:
    rows = read_rows(Path("runs") / name / "metrics.jsonl")
    return [{key: row[key] for key in row if key not in CLOCK} for row in rows]


@pytest.mark.parametrize(("core", "quantiser"), [("lstm", "logistic_16"), ("compressive", "mu_law_256")])
def test_a_run_in_two_parts_is_the_run_in_one(config: str, core: str, quantiser: str) -> None:
    core_words = [f"core={{name: {core}, d_model: 16}}", f"data.quantiser={quantiser}", "train.segment_length=16"]
    arguments = ["train", config, *core_words, "train.audio_samples.interval=18"]
    assert main([*arguments, "run.name=whole"]) == 0
    assert main([*arguments, "run.name=parts", "train.total_tokens=640"]) == 0
    assert main([*arguments, "run.name=parts", "--resume"]) == 0
    whole, parts = (newest_checkpoint(Path("runs") / name) for name in ("whole", "parts"))
    assert parts.step == whole.step == 1280
    assert same(parts.weights, whole.weights)
    assert same(parts.state, whole.state)
    assert logged("parts") == logged("whole")
    seconds = [row["seconds"] for row in read_rows(Path("runs/parts/metrics.jsonl"))]
    assert seconds == sorted(seconds)
    samples = [
        sorted(path.relative_to(f"runs/{n}") for path in Path(f"runs/{n}/samples").rglob("*.wav"))
        for n in ("whole", "parts")
    ]
    assert samples[0] == samples[1] != []
    for path in samples[0]:
        assert (Path("runs/whole") / path).read_bytes() == (Path("runs/parts") / path).read_bytes()


def test_a_run_emits_exactly_the_documented_metrics_and_samples(config: str) -> None:
    section = (ROOT / "docs/metrics.md").read_text().partition("## Models of audio")[2].partition("\n## ")[0]
    first_cells = "".join(line.split("|")[1] for line in section.splitlines() if line.startswith("| `"))
    documented = set(re.findall(r"`([a-z]+/[a-z_]+)`", first_cells))
    assert main(["train", config]) == 0
    rows = read_rows(Path("runs/run/metrics.jsonl"))
    assert {key for row in rows for key in row if "/" in key} == documented

    folders = sorted(Path("runs/run/samples").iterdir())
    assert [folder.name for folder in folders] == ["step-000000000640", "step-000000001280"]
    names = {f"{kind}-{index}" for kind in ("real", "continued", "free") for index in (0, 1)}
    for folder in folders:
        assert {path.stem for path in folder.glob("*.wav")} == names
        for path in folder.glob("*.wav"):
            clip = waveform.read(path)  # every header is one that we trust
            assert clip.rate == RATE
            assert len(clip.samples) == (80 if path.stem.startswith("free") else 112)
        lines = [json.loads(line) for line in (folder / "clips.jsonl").read_text().splitlines()]
        assert {line["clip"] for line in lines} == names
    events = EventAccumulator(str(Path("runs/run/tensorboard"))).Reload()
    assert set(events.Tags()["audio"]) == {f"samples/{name}" for name in names}
    assert events.Tags()["images"] == ["samples/log_mel"]
    (first, _) = events.Audio("samples/real-0")
    assert (first.sample_rate, first.step) == (RATE, 640)
    Path("sound.wav").write_bytes(first.encoded_audio_string)
    with contextlib.closing(wave.open("sound.wav")) as sound:
        assert (sound.getnchannels(), sound.getframerate()) == (1, RATE)


def test_a_trained_model_is_evaluated_swept_and_reported(
    config: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["train", config, "core={name: transformer_xl, d_model: 16, memory_length: 8}"]) == 0
    capsys.readouterr()
    assert main(["evaluate", "runs/run", "core.memory_length=8,32", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert rows[0]["nats"] != rows[1]["nats"]
    assert rows[0]["bits_per_sample"] == pytest.approx(rows[0]["nats"] / rows[0]["samples"] / 0.6931472)
    last = read_rows(Path("runs/run/metrics.jsonl"))[-1]
    assert rows[0]["bits_per_sample"] == pytest.approx(last["validation/bits_per_sample"], abs=1e-5)
    assert rows[0]["baselines"]["bigram"] == pytest.approx(last["baseline/bigram_bits_per_sample"])
    scored = newest_checkpoint(Path("runs/run")).score
    assert scored is not None
    assert scored.value == last["validation/bits_per_sample"]
    assert main(["evaluate", "runs/run", "--checkpoint", "best", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["bits_per_sample"] == pytest.approx(scored.value, abs=1e-5)
    assert main(["generate", "runs/run", "--checkpoint", "7"]) == 2
    assert "has no checkpoint of step 7; it has 640, 960, 1280 (best)" in capsys.readouterr().err
    assert rows[0]["interval"][0] <= rows[0]["bits_per_sample"] <= rows[0]["interval"][1]
    assert sum(bucket["tokens"] for bucket in rows[0]["positions"]) == rows[0]["samples"]
    assert main(["evaluate", "runs/run", "--split", "train", "--by-position", "positions.png"]) == 0
    printed = capsys.readouterr().out
    assert "nats/sample by position" in printed
    monkeypatch.setattr(datasets.waveform, "torchaudio_module", lambda: pytest.fail("goes online"))
    missing = ["data.path=new/LJSpeech-1.1", "data.layout=ljspeech", "data.download=true"]
    assert main(["evaluate", "runs/run", *missing]) == 2
    assert not Path("new").exists()
    for words in ("mu_law_256 at 8,000 samples a second, gain ", "unigram baseline", "bigram baseline", "3 clips"):
        assert words in printed
    assert main(["report", "runs/run"]) == 0
    assert "final validation/bits_per_sample" in capsys.readouterr().out
    assert Path("report.png").stat().st_size > 10_000


def test_another_data_set_is_scored_under_the_gain_of_training(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", config, "train.total_tokens=320"]) == 0
    gain = newest_checkpoint(Path("runs/run")).fingerprint["quantiser"]["gain"]
    Path("quiet").mkdir()
    for path in Path("clips").rglob("*.wav"):
        target = Path("quiet") / path.relative_to("clips")
        target.parent.mkdir(exist_ok=True)
        soundfile.write(target, waveform.read(path).samples / 4, RATE)
    capsys.readouterr()
    assert main(["evaluate", "runs/run", "data.path=quiet", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["gain"] == gain


@pytest.mark.parametrize("quantiser", ["mu_law_256", "logistic_16"])
def test_a_trained_model_writes_sound(config: str, quantiser: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", config, f"data.quantiser={quantiser}", "data.gain=0.5", "train.total_tokens=320"]) == 0
    prompt = waveform.read(Path("clips/validation/0.wav")).samples
    Path("clips").rename("gone")  # what it takes to write is in the checkpoint
    capsys.readouterr()
    arguments = ["generate", "runs/run", "--seconds", "0.01", "--streams", "3", "--prompt", "gone/validation/0.wav"]
    assert main([*arguments, "--output", "out"]) == 0
    printed = capsys.readouterr()
    assert (
        len(
            re.findall(r"out/stream-000[012]\.wav  0\.01 s  \d\.?\d* ?\S+ bits/sample  log-likelihood -\d", printed.out)
        )
        == 3
    )
    assert "240 samples in" in printed.err
    assert "samples/s" in printed.err
    clips = [waveform.read(path) for path in sorted(Path("out").iterdir())]
    assert [(clip.rate, len(clip.samples)) for clip in clips] == [(RATE, len(prompt) + 80)] * 3
    error = 0.05 if quantiser == "mu_law_256" else 1e-3
    assert abs(clips[0].samples[: len(prompt)] - prompt).max() < error, "the prompt is heard as it was recorded"
    assert (clips[0].samples != clips[1].samples).any()
    filtered = main(["generate", "runs/run", "--seconds", "0.005", "--top-k", "3", "--output", "other"])
    assert filtered == (0 if quantiser == "mu_law_256" else 2)
    capsys.readouterr()
    assert main(["generate", "runs/run", "--seconds", "0.005", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["samples"] == 40
    (made,) = (Path(file["path"]) for file in result["files"])
    assert made == Path("runs/run/generated/stream-0000.wav")
    # A run folder that came from elsewhere leads no write out of it.
    Path("precious").mkdir()
    Path("precious/file").write_text("keep")
    made.unlink()
    made.symlink_to(Path("precious/file").absolute())
    assert main(["generate", "runs/run", "--seconds", "0.005"]) == 2
    shutil.rmtree(made.parent)
    made.parent.symlink_to(Path("precious").absolute())
    assert main(["generate", "runs/run", "--seconds", "0.005"]) == 2
    error = capsys.readouterr().err
    assert f"--output: {made}: cannot be written: is not a regular file but a link" in error
    assert f"--output: {made.parent}: is not a folder but a link" in error
    assert [(path.name, path.read_text()) for path in Path("precious").iterdir()] == [("file", "keep")]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "experiment.yaml", "data.path=absent", "data.origin=fetch it"], "no such folder\n  fetch it"),
        (["train", "experiment.yaml", "data.path=single"], "1 clip to share out leave none for validation"),
        (["train", "experiment.yaml", 'data.cache="a\\0b"'], "data.cache: "),
        (["train", "experiment.yaml", 'data.path="a\\0b"'], "data.path: "),
        (["train", "experiment.yaml", "train.audio_samples.seconds=1e308"], "train.audio_samples.seconds: expected a"),
        (["train", "experiment.yaml", "train.audio_samples.prompt_seconds=1e308"], "audio_samples.prompt_seconds: exp"),
        (["train", "experiment.yaml", "data.split_by=speaker"], "data.split_by: clips names its held-out clips itself"),
        (["train", "experiment.yaml", "train.batch_size=1000"], "expected at least one segment a lane"),
        (["train", "experiment.yaml", "data.sample_rte=3"], "data.sample_rte: unknown key; did you mean sample_rate?"),
        (["train", "experiment.yaml", "data.layout=foldr"], "data.layout: expected one of 'folder', 'ljspeech'"),
        (["train", "experiment.yaml", "data.formats=[wav, mp3]"], "data.formats: expected a list, each one of 'wav'"),
        (["train", "experiment.yaml", "data.formats=[]"], "expected at least one of wav, flac, ogg"),
        (["train", "experiment.yaml", "data.gain=loud"], "data.gain: expected a finite number >= 1e-06 and"),
        (["train", "experiment.yaml", "data.words=[one]"], "data.words: is for the layout speechcommands alone"),
        (["train", "experiment.yaml", "data.tokens=bytes"], "data.tokens: unknown key"),
        (["train", "experiment.yaml", "train.audio_samples={seconds: 1}"], "train.audio_samples.interval: missing"),
        (["train", "experiment.yaml", "train.listening={interval: 3}"], "renamed; write train.audio_samples"),
        (["train", "experiment.yaml", "data.sample_rate=16000"], "no clip of train can be used"),
        (["evaluate", "runs/run", "--episodes", "3"], "--episodes: for agents only"),
        (["evaluate", "runs/run", "--by-frequency"], "--by-frequency: for models of text only"),
        (["evaluate", "runs/run", "--split", "test"], "has no test split; it has train, validation"),
        (["evaluate", "runs/run", "data.sample_rate=4000"], "was trained with rate 8000, the config"),
        (["evaluate", "runs/run", "data.quantiser=logistic_16"], "was trained with name mu_law_256"),
        (["generate", "runs/run", "--tokens", "3"], "--tokens: for models of text only"),
        (["generate", "runs/run", "--prompt", "absent.wav"], "--prompt: absent.wav: cannot be opened"),
        (["generate", "runs/run", "--prompt", "other.wav"], "has 16000 samples a second, the model 8000"),
        (["generate", "runs/run", "--output", "experiment.yaml"], "--output: experiment.yaml"),
        (["generate", "absent"], "config.yaml: cannot be read"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_message_and_exit_code_2(
    config: str, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    if arguments[0] != "train":
        assert main(["train", config, "train.total_tokens=32", "train.audio_samples=null"]) == 0
    soundfile.write("other.wav", sine(300, 0.01, 16_000), 16_000)
    Path("single").mkdir()
    soundfile.write("single/one.wav", sine(300, 0.5, RATE), RATE)
    capsys.readouterr()
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error


def test_options_of_sound_are_refused_for_text(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("text.txt").write_text("The maze remembers. " * 40)
    words = ["data={path: text.txt, cache: cache}", "train.audio_samples", "run.name=text", "train.total_tokens=32"]
    Path("text.yaml").write_text(re.sub(r",\s+audio_samples: \{.*?\}", "", CONFIG))
    assert main(["train", "text.yaml", words[0], *words[2:]]) == 0
    capsys.readouterr()
    assert main(["generate", "runs/text", "--seconds", "1", "--output", "out"]) == 2
    assert "--seconds, --output: for models of audio only" in capsys.readouterr().err


def test_clips_that_changed_are_not_resumed(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", config, "train.total_tokens=320"]) == 0
    soundfile.write("clips/train/1.wav", noise(0.03, RATE, 7), RATE)
    assert main(["train", config, "--resume"]) == 2
    assert "data.sha256: the checkpoint has" in capsys.readouterr().err


def test_bad_clips_are_told_and_strict_refuses_them(
    config: str, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("clips/train/text.wav").write_text("no sound")
    assert main(["train", config, "train.total_tokens=32", "train.audio_samples=null"]) == 0
    assert "1 of 6 clips cannot be used" in caplog.text
    assert main(["train", config, "--overwrite", "data.strict=true"]) == 2
    assert "text.wav: ends inside the RIFF header" in capsys.readouterr().err


def test_a_configuration_survives_its_dump(config: str) -> None:
    first = load_experiment(config, ["data.formats=[wav, ogg]", "data.gain=2.5", "data.split.test=0.1"])
    assert isinstance(first, ExperimentConfig)
    Path("again.yaml").write_text(dump(first))
    assert load_experiment("again.yaml") == first


@pytest.mark.parametrize("text", ["null", "''", "-1", "0", "1e309", "x", "[]", "{}", "true", ".nan", "[[]]", "[1]"])
def test_any_value_in_any_field_is_accepted_or_explained(config: str, text: str) -> None:
    first = load_experiment(config)
    assert isinstance(first, ExperimentConfig)
    for section, fields in (("data", first.data), ("model", first.model), ("train", first.train)):
        for field in vars(fields):
            if not field.startswith("__"):
                with contextlib.suppress(ConfigError):  # any other error fails the test
                    load_experiment(config, [f"{section}.{field}={text}"])


@pytest.mark.parametrize("name", [name for name in shipped_configs() if name.startswith("audio/")])
def test_shipped_configurations_load(name: str) -> None:
    config = load_experiment(find_config(name))
    assert isinstance(config, ExperimentConfig)
    assert config.run.name == Path(name).stem
    assert config.data.path.startswith(("data/", "/usr/share/"))
    assert config.data.origin


@pytest.mark.parametrize("name", [name for name in shipped_configs() if name.startswith("audio/speech_en24")])
def test_the_comparisons_models_are_of_one_size_and_one_window(name: str) -> None:
    config = load_experiment(find_config(name))
    core = memory_cores.build(config.core.name, d_model=config.core.d_model, **config.core.options)
    assert sum(parameter.numel() for parameter in core.parameters()) == pytest.approx(1e6, rel=0.1)
    assert config.train.segment_length == 5 * 768  # type: ignore[union-attr]
