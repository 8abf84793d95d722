"""Evaluation of text on the command line: any checkpoint, whole files, every token, two models."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from reverie.cli import main
from reverie.metrics_file import read_rows
from tests.reverie.test_text_path import CONFIG, TEXT


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text(TEXT)
    Path("experiment.yaml").write_text(CONFIG)
    return "experiment.yaml"


def test_any_checkpoint_is_evaluated_and_writes(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train.learning_rate=0.05", "train.total_tokens=1600"]
    assert main(["train", config, *words]) == 0
    rows = read_rows(Path("runs/run/metrics.jsonl"))
    measured = {row["step"]: row["validation/nats_per_token"] for row in rows if "validation/nats_per_token" in row}
    best = min(measured, key=measured.__getitem__)
    for choice, step in (("newest", 1600), ("best", best), ("1280", 1280)):
        capsys.readouterr()
        assert main(["evaluate", "runs/run", "--checkpoint", choice, "--json"]) == 0
        result = json.loads(capsys.readouterr().out)
        assert result["step"] == step
        assert result["nats_per_token"] == pytest.approx(measured[step], rel=1e-5)
        assert main(["generate", "runs/run", "--checkpoint", choice, "--tokens", "3", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["step"] == step
    assert main(["evaluate", "runs/run", "--checkpoint", "7"]) == 2
    steps = [f"{step}{' (best)' if step == best else ''}" for step in sorted({best, 960, 1280, 1600})]
    assert f"runs/run: has no checkpoint of step 7; it has {', '.join(steps)}" in capsys.readouterr().err
    Path(f"runs/run/checkpoints/{1280:012d}/state.pt").write_bytes(b"")
    assert main(["generate", "runs/run", "--checkpoint", "1280"]) == 1
    assert "no checkpoint verifies" in capsys.readouterr().err
    assert main(["train", config, "train.total_tokens=64", "--overwrite"]) == 0
    assert main(["evaluate", "runs/run", "--checkpoint", "best"]) == 2
    assert "no checkpoint with a held-out score; it has 64; they come from" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["evaluate", "runs/run", "--checkpoint", "latest"])
    assert "expected newest, best or a step, got 'latest'" in capsys.readouterr().err


def test_whole_files_are_scored_and_two_models_compared_on_them(
    config: str,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert main(["train", config, "train.total_tokens=960"]) == 0
    assert main(["train", config, "data.tokens=bytes", "run.name=bytes", "train.total_tokens=960"]) == 0
    words = ["data.tokens=words", "run.name=words", "train.total_tokens=64", "train.segment_length=4"]
    assert main(["train", config, *words]) == 0
    Path("text.txt").unlink()  # what it takes to score a text is in the checkpoint
    texts = {"a.txt": TEXT[:100], "b.txt": TEXT[40:160], "c.txt": "every turn — "}
    for name, text in texts.items():
        Path(name).write_text(text)
    capsys.readouterr()

    def printed(*arguments: str) -> dict[str, Any]:
        assert main([*arguments, "--json"]) == 0
        return dict(json.loads(capsys.readouterr().out))

    result = printed("evaluate", "runs/run", "--per-token", "tokens.csv", "--by-position", "p.png", "--text", *texts)
    assert (result["documents"], result["tokens"]) == (3, sum(map(len, texts.values())))
    assert result["num_bytes"] == sum(len(text.encode()) for text in texts.values())
    assert result["interval"][0] < result["bits_per_byte"] < result["interval"][1]
    assert sum(bucket["tokens"] for bucket in result["positions"]) == result["tokens"]
    with Path("tokens.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert "".join(row["text"] for row in rows) == "".join(texts.values())
    assert -sum(float(row["log_probability"]) for row in rows) == pytest.approx(result["nats"])
    assert Path("p.png").read_bytes()[:4] == b"\x89PNG"
    alone = [printed("evaluate", "runs/run", "--text", name)["nats"] for name in texts]
    assert sum(alone) == pytest.approx(result["nats"], rel=1e-6), "a file is a document, whose memory begins empty"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(texts["a.txt"].encode())))
    assert printed("evaluate", "runs/run", "--text", "-")["nats"] == alone[0]
    Path("long.txt").write_text(TEXT)
    assert main(["evaluate", "runs/run", "data.path=long.txt"]) == 0
    assert "long.txt: its validation split alone is scored; --text long.txt scores all of it" in caplog.text
    assert "validation split: 132 tokens" in capsys.readouterr().out
    assert main(["evaluate", "runs/run", "core.memory_length=0,8", "--by-position", "p.png", "--text", "a.txt"]) == 0
    table = capsys.readouterr().out
    for text in ("runs/run at step 960, text: 100 tokens", "from position", "core.memory_length=0", "64  "):
        assert text in table

    compared = printed("compare", "runs/run", "runs/bytes", "--text", *texts)
    other = printed("evaluate", "runs/bytes", "--text", *texts)
    assert (compared["unit"], [run["step"] for run in compared["runs"]]) == ("bits per byte", [960, 960])
    assert compared["difference"] == pytest.approx(result["bits_per_byte"] - other["bits_per_byte"])
    assert [document["name"] for document in compared["documents"]] == [*texts]
    assert compared["interval"][0] <= compared["difference"] <= compared["interval"][1]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(texts["b.txt"].encode())))
    assert main(["compare", "runs/run", "runs/run", "--checkpoint", "best", "--text", "-", "a.txt"]) == 0
    table = capsys.readouterr().out
    assert "+0.0000" in table
    assert "standard input" in table

    for arguments, message in (
        (
            ["compare", "runs/run", "runs/words", "--text", "a.txt"],
            "runs/run is measured in bits per byte, runs/words in",
        ),
        (["evaluate", "runs/run", "--text", "absent.txt"], "absent.txt: cannot be read: No such file"),
        (["evaluate", "runs/run", "--text", "a.txt", "core.memory_length=4"], "key=value stands before --text"),
        (["evaluate", "runs/run", "--text", "a.txt", "tokens.csv"], "tokens.csv: byte "),
        (["evaluate", "runs/run", "data.split.test=1", "--text", "a.txt"], "data.split.test=1: changes nothing where"),
        (["evaluate", "runs/run", "--per-token", "no/t.csv", "--text", "a.txt"], "--per-token: no/t.csv: cannot be"),
        (["evaluate", "runs/run", "--by-position", "runs", "--text", "a.txt"], "--by-position: runs: cannot be"),
        (
            ["evaluate", "runs/run", "core.memory_length=4,8", "--per-token", "t.csv", "--text", "a.txt"],
            "--per-token: is for one evaluation, the overrides ask for 2",
        ),
    ):
        assert main(arguments) == 2, arguments
        assert message in capsys.readouterr().err
