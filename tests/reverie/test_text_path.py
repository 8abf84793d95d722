"""The command line on language models: train, resume, evaluate, sweep, generate, report; what a mistake says."""

from __future__ import annotations

import contextlib
import io
import json
import math
import re
from pathlib import Path

import pytest

import lm.config
from lm.corpus import prepare
from reverie.cli import main
from reverie.experiment import ConfigError, dump, load_experiment
from reverie.metrics_file import read_rows
from reverie.run_folder import newest_checkpoint
from reverie.shipped_configs import find_config, shipped_configs
from tests.equality import same
from training.errors import InputError

ROOT = Path(__file__).parents[2]
CONFIG = """
data: {path: text.txt, tokens: characters, cache: cache}
core: {name: transformer_xl, d_model: 16, memory_length: 8}
train: {total_tokens: 640, batch_size: 4, segment_length: 8, evaluation_interval: 10, log_interval: 5,
        checkpoint_interval: 10, learning_rate: {initial: 1e-2, shape: cosine}}
run: {name: run}
"""
TASK = "{task: copy, length: 5, symbols: 4, train_sequences: 40, validation_sequences: 5, test_sequences: 4}"
CLOCK = ("time", "seconds", "throughput/steps_per_second")
TEXT = "The maze remembers — every turn.\n" * 40


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text(TEXT)
    Path("experiment.yaml").write_text(CONFIG)
    return "experiment.yaml"


@pytest.mark.parametrize("core", ["lstm", "compressive"])  # every core's state is that of lm/test_trainer.py's resumes
def test_a_run_in_two_parts_is_the_run_in_one(config: str, core: str) -> None:
    # A schedule would be another one over the first part alone.
    core_words = [
        f"core={{name: {core}, d_model: 16}}",
        "train.segment_length=16",
    ]  # a multiple of every default period
    arguments = ["train", config, *core_words, "train.learning_rate=1e-2"]
    assert main([*arguments, "run.name=whole", "train.total_tokens=1280"]) == 0
    assert main([*arguments, "run.name=parts", "train.total_tokens=640"]) == 0
    assert main([*arguments, "run.name=parts", "train.total_tokens=1280", "--resume"]) == 0
    whole, parts = (newest_checkpoint(Path("runs") / name) for name in ("whole", "parts"))
    assert parts.step == whole.step == 1280
    assert same(parts.weights, whole.weights)
    assert same(parts.state, whole.state)
    rows = [read_rows(Path("runs") / name / "metrics.jsonl") for name in ("whole", "parts")]
    measured = [[{key: row[key] for key in row if key not in CLOCK} for row in run] for run in rows]
    assert measured[0] == measured[1]


def test_a_run_emits_exactly_the_documented_metrics(config: str) -> None:
    section = (ROOT / "docs/metrics.md").read_text().partition("## Language models")[2].partition("\n## ")[0]
    first_cells = "".join(line.split("|")[1] for line in section.splitlines() if line.startswith("| `"))
    documented = set(re.findall(r"`([a-z]+/[a-z_]+)`", first_cells))
    assert main(["train", config, "train.total_tokens=2560"]) == 0
    rows = read_rows(Path("runs/run/metrics.jsonl"))
    assert {key for row in rows for key in row if "/" in key} == documented
    assert rows[-1]["validation/nats_per_token"] < 1.5


def test_a_trained_model_is_evaluated_swept_and_reported(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", config]) == 0
    assert "loss" in capsys.readouterr().err
    assert main(["evaluate", "runs/run", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    split = TEXT.encode()[-result["num_bytes"] :].decode()
    assert result["characters"] == result["tokens"] == len(split)
    assert result["num_words"] == len(split.split())
    assert result["bits_per_character"] > result["bits_per_byte"]
    assert main(["evaluate", "runs/run", "core.memory_length=8,32", "--json", "data.cache=other"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["overrides"][0] for row in rows] == ["core.memory_length=8", "core.memory_length=32"]
    assert rows[0]["nats"] == result["nats"] != rows[1]["nats"]
    assert main(["evaluate", "runs/run", "--split", "train"]) == 0
    printed = capsys.readouterr().out
    assert "words" in printed
    assert "as trained" in printed
    assert main(["report", "runs/run"]) == 0
    assert "final validation/nats_per_token" in capsys.readouterr().out
    assert Path("report.png").stat().st_size > 10_000


def test_a_trained_model_writes(
    config: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["train", config]) == 0
    capsys.readouterr()
    arguments = ["generate", "runs/run", "--prompt", "The maze", "--tokens", "40", "--temperature", "0"]
    assert main(arguments) == 0
    written, error = capsys.readouterr()
    assert written.startswith("The maze")
    assert "log-likelihood of the 40 tokens after the prompt: -" in error
    assert len(written) == len("The maze") + 40 + 1
    assert main([*arguments, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert "The maze" + result["text"] == written[:-1]
    assert result["log_likelihood"] == pytest.approx(-40 * result["nats_per_token"])
    assert -40 * math.log(30) < result["log_likelihood"] < 0
    Path("prompt.txt").write_text("The maze")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"The maze")))
    for place in ("prompt.txt", "-"):
        assert main(["generate", "runs/run", "--prompt-file", place, *arguments[4:]]) == 0
        assert capsys.readouterr().out == written
    Path("text.txt").unlink()  # what it takes to write is in the checkpoint
    assert (
        main(["generate", "runs/run", "core.memory_length=32", "--tokens", "20", "--top-k", "3", "--top-p", "0.9"]) == 0
    )
    assert len(capsys.readouterr().out) == 21
    assert main(["generate", "runs/run", "--prompt", "The @"]) == 2
    assert "--prompt: byte 4: the character '@'" in capsys.readouterr().err
    assert main(["generate", "runs/run", "--prompt-file", "absent.txt"]) == 2
    assert "absent.txt: cannot be read" in capsys.readouterr().err


def test_bytes_that_are_not_text_are_written_as_text(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", config, "data.tokens=bytes", "train.total_tokens=32"]) == 0
    capsys.readouterr()
    assert main(["generate", "runs/run", "--tokens", "300"]) == 0
    assert "�" in capsys.readouterr().out


@pytest.mark.parametrize("tokens", ["words", "subwords"])
def test_a_model_of_words_or_subwords_is_trained_evaluated_and_writes(
    config: str, capsys: pytest.CaptureFixture[str], tokens: str
) -> None:
    size = "data.vocabulary_size=" + ("7" if tokens == "words" else "280")
    adaptive = "model.adaptive={cutoffs: [3], factor: 2}"
    fields = ["train.total_tokens=1280", "train.segment_length=4", "core.memory_length=8"]
    Path("text.txt").write_text(TEXT * 4)
    assert main(["train", config, f"data.tokens={tokens}", size, adaptive, *fields]) == 0
    assert main(["evaluate", "runs/run", "--json", "--by-frequency", "data.words={validation: 100}"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["words_from"] == "published"
    assert result["word_perplexity"] == pytest.approx(math.exp(result["nats"] / 100), rel=1e-6)
    special = ["<unk>", "<eos>"] if tokens == "words" else []
    assert [bucket["frequency"] for bucket in result["buckets"]] == ["> 10K", "1K-10K", "100-1K", "< 100", *special]
    assert (result["bits_per_byte"] is None) == (tokens == "words")
    assert main(["evaluate", "runs/run", "--by-frequency"]) == 0
    printed = capsys.readouterr().out
    assert ("(tokens)" if tokens == "words" else "(counted)") in printed
    assert "by count in the train split, as trained" in printed
    assert main(["generate", "runs/run", "--prompt", "The maze", "--tokens", "5"]) == 0
    assert capsys.readouterr().out.startswith("The maze")


def test_a_task_is_trained_evaluated_and_answered(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("experiment.yaml").write_text(CONFIG.replace("{path: text.txt, tokens: characters, cache: cache}", TASK))
    assert main(["train", config]) == 0
    rows = read_rows(Path("runs/run/metrics.jsonl"))
    assert {key for row in rows for key in row if key.startswith("validation/")} == {
        "validation/nats_per_token",
        "validation/symbol_accuracy",
        "validation/sequence_accuracy",
    }
    assert main(["evaluate", "runs/run", "--json", "--split", "test", "data.length=3,5"]) == 0
    results = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [result["sequences"] for result in results] == [4, 4]
    assert all(0 <= result["generated_symbol_accuracy"] <= 1 for result in results)
    assert main(["evaluate", "runs/run"]) == 0
    assert "5 sequences" in capsys.readouterr().out
    assert main(["generate", "runs/run", "--prompt", "1 0 1 2 3", "--tokens", "5"]) == 0
    assert len(capsys.readouterr().out.split()) >= 9
    assert main(["evaluate", "runs/run", "--by-frequency", "--text", "text.txt"]) == 2
    assert "--text, --by-frequency: for texts only" in capsys.readouterr().err
    assert main(["compare", "runs/run", "runs/run"]) == 2
    assert "answers copy, a synthetic task" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "experiment.yaml", "data.path=absent.txt", "data.origin=fetch it"], "file or folder\n  fetch it"),
        (["train", "experiment.yaml", "train.segment_length=6", "core.granularity=4"], "segment_length: expected a"),
        (["train", "experiment.yaml", "train.batch_size=1000"], "expected at least one segment a lane"),
        (["train", "experiment.yaml", "data.tokns=bytes"], "did you mean tokens"),
        (["train", "experiment.yaml", "data.tokens=letters"], "expected one of 'bytes', 'characters'"),
        (["train", "experiment.yaml", "data.task=copy"], "data.path (line 2): unknown key; known: length"),
        (["train", "experiment.yaml", "data={task: copying}"], "data.task: expected one of 'copy', 'reverse'"),
        (["train", "experiment.yaml", "data={task: copy, lenght: 3}"], "did you mean length"),
        (["train", "experiment.yaml", "data.vocabulary_size=300"], "is for words and subwords, data.tokens is 'char"),
        (["train", "experiment.yaml", "data.tokens=subwords", "data.vocabulary_size=256"], "expected 257 or more"),
        (["train", "experiment.yaml", "data.min_count=2"], "data.min_count: is for words"),
        (["train", "experiment.yaml", "model.adaptive={cutoffs: [9, 5]}"], "cutoffs: expected ascending numbers"),
        (["train", "experiment.yaml", "model.adaptive={cutoffs: [90]}"], "cutoffs: 90 leaves the last band empty"),
        (["train", "experiment.yaml", "model.adaptive={cutoffs: [5, 9], factor: 8}"], "last band would have no width"),
        (["train", "experiment.yaml", "env.id=x"], "data (line 2): unknown key; known: agent"),
        (["train", "experiment.yaml", "train.learning_rate.warmup_tokens=99999"], "is not below train.total_tokens"),
        (["train", "experiment.yaml", "train.accumulate={final: 2}"], "train.accumulate.switch_tokens: missing"),
        (["evaluate", "runs/run", "--episodes", "3"], "--episodes: for agents only"),
        (["evaluate", "runs/run", "--split", "test"], "has no test split"),
        (["evaluate", "runs/run", "core.d_model=32,64"], "do not fit the model"),
        (["evaluate", "runs/run", "core.memory_length=8,x"], "core.memory_length: expected an integer"),
        (["evaluate", "runs/run", "train.precision=bfloat16"], "train.precision: changes nothing in an evaluation"),
        (["evaluate", "runs/run", "data.path=other.txt"], "byte 1: the character 'X' is not among"),
        (["generate", "absent"], "config.yaml: cannot be read"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_message_and_exit_code_2(
    config: str, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    if arguments[0] != "train":
        assert main(["train", config, "train.total_tokens=32"]) == 0
    Path("other.txt").write_text("eXtra" * 30)
    capsys.readouterr()
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error


def test_a_text_that_changed_is_not_resumed(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", config]) == 0
    Path("text.txt").write_text(TEXT.replace("every", "evrey"))
    assert main(["train", config, "--resume", "train.total_tokens=4000"]) == 2
    error = capsys.readouterr().err
    assert "data.sha256: the checkpoint has" in error
    assert "--changed-data continues nevertheless" in error
    assert main(["evaluate", "runs/run"]) == 2
    assert "text.txt: is not the data that" in capsys.readouterr().err
    assert main(["evaluate", "runs/run", "data.path=text.txt"]) == 0
    assert main(["train", config, "--changed-data"]) == 2
    assert "--changed-data: is for --resume alone" in capsys.readouterr().err


def test_a_text_that_changed_is_resumed_when_asked_to_and_reported(
    config: str, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert main(["train", config]) == 0
    Path("text.txt").write_text(TEXT.replace("every", "evrey"))
    assert main(["train", config, "--resume", "--changed-data", "train.total_tokens=672"]) == 0
    assert "data.sha256: the checkpoint has" in caplog.text
    assert newest_checkpoint(Path("runs/run")).step == 672
    Path("text.txt").write_text(TEXT.replace("every", "EVERY"))
    assert main(["train", config, "--resume", "--changed-data", "train.total_tokens=4000"]) == 2
    assert "byte 23: the character 'E' is not among the 18" in capsys.readouterr().err
    Path("text.txt").write_text(TEXT.replace("every", "mazy"))
    assert main(["train", config, "--resume", "--changed-data", "train.total_tokens=704"]) == 0
    # Its vocabulary is still that of the first text, whose letters this one lacks.
    assert main(["train", "runs/run", "--resume", "train.total_tokens=736"]) == 0
    assert main(["evaluate", "runs/run"]) == 0


def test_a_configuration_survives_its_dump(config: str) -> None:
    first = load_experiment(config, ["train.accumulate={final: 4, switch_tokens: 100}", "data.split.test=0.1"])
    Path("again.yaml").write_text(dump(first))
    assert load_experiment("again.yaml") == first


@pytest.mark.parametrize("text", ["null", "''", "-1", "0", "1e309", "x", "[]", "{}", "true", ".nan"])
def test_any_value_in_any_field_is_accepted_or_explained(config: str, text: str) -> None:
    cheap = "core={name: feedforward, d_model: 16}"  # it is built anew for each value
    first = load_experiment(config, [cheap])
    for section, fields in (("data", first.data), ("model", first.model), ("train", first.train)):  # type: ignore[union-attr]
        for field in vars(fields):
            if field.startswith("__"):
                continue
            with contextlib.suppress(ConfigError):  # any other error fails the test
                load_experiment(config, [cheap, f"{section}.{field}={text}"])


@pytest.mark.parametrize("name", [name for name in shipped_configs() if name.startswith("text/")])
def test_shipped_configurations_load_and_say_how_to_get_their_data(name: str) -> None:
    try:
        config = load_experiment(find_config(name))
    except ConfigError as error:
        if all("this machine has" in problem for problem in error.problems):
            pytest.skip(f"too large for this machine: {error}")
        raise
    assert isinstance(config, lm.config.ExperimentConfig)
    assert config.run.name == Path(name).stem
    assert config.train.total_tokens >= 10**6
    if isinstance(config.data, lm.config.TaskConfig):
        return
    with pytest.raises(InputError) as raised:  # the folder of this test holds no data
        prepare(config.data)
    assert config.data.origin in str(raised.value)
    assert config.data.path in str(raised.value)
    assert "http" in config.data.origin


def test_a_key_that_was_renamed_is_named_by_what_it_is_called_now(config: str) -> None:
    text = CONFIG.replace("total_tokens", "total_steps").replace("shape: cosine", "warmup_steps: 3")
    Path("old.yaml").write_text(text)
    words = ["model.tied=false", "train.update_period={final: 4, switch_step: 5}"]
    with pytest.raises(ConfigError) as caught:
        load_experiment("old.yaml", words)
    problems = [re.sub(r" \(line [0-9]+\)", "", problem) for problem in caught.value.problems]
    assert sorted(problems) == [
        "model.tied: renamed; write model.tie_embeddings",
        "train.learning_rate.warmup_steps: renamed; write train.learning_rate.warmup_tokens",
        "train.total_steps: renamed; write train.total_tokens",
        "train.update_period: renamed; write train.accumulate",
    ]
    with pytest.raises(ConfigError) as caught:
        load_experiment(config, ["train.accumulate={final: 4, switch_step: 5}"])
    assert caught.value.problems == ["train.accumulate.switch_step: renamed; write train.accumulate.switch_tokens"]


def test_a_model_that_diverges_ends_with_exit_code_3(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", config, "train.learning_rate=1e30"]) == 3
    assert "5 updates in a row" in capsys.readouterr().err
