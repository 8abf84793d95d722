"""A command that is refused, or has nothing to do, changes not a byte of a run folder."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from reverie.cli import main
from tests.audio.synthetic import noise

TEXT = "The maze remembers every turn.\n" * 40
CONFIGS = {
    "agent": """
env: {id: "envs:TMaze-v0", kwargs: {length: 3}}
core: {name: transformer_xl, d_model: 16, memory_length: 8, num_heads: 2}
agent: {num_actors: 0, envs_per_actor: 2, batch_size: 2, unroll_length: 8, encoder_width: 16}
train: {total_steps: 64, log_interval: 2, checkpoint_interval: 2}
run: {name: agent}
""",
    "text": """
data: {path: text.txt, tokens: characters, cache: cache}
core: {name: transformer_xl, d_model: 16, memory_length: 8, num_heads: 2}
train: {total_tokens: 256, batch_size: 4, segment_length: 8, log_interval: 2, checkpoint_interval: 2}
run: {name: text}
""",
    "sound": """
data: {path: clips, layout: folder, sample_rate: 8000, cache: cache}
core: {name: transformer_xl, d_model: 16, memory_length: 8, num_heads: 2}
train: {total_tokens: 256, batch_size: 4, segment_length: 8, log_interval: 2, checkpoint_interval: 2}
run: {name: sound}
""",
}
SCORE = {"agent": ["--episodes", "2"], "text": [], "sound": []}
IDLE = [[], ["train.total_{unit}=32"], ["train.log_interval=7"], ["train.num_threads=1"]]
"""Overrides under which a finished run may be resumed, with nothing to do."""
REFUSED_ALWAYS = [
    ["core.memory_length=16"],
    ["core.name=lstm"],
    ["core.nme=lstm"],
    ["core.d_model=8"],
    ["train.seed=9"],
    ["train.device=cuda:7"],
    ["train.keep_checkpoints=1"],
    ["train.total_{unit}=999", "core.num_heads=1"],
]
REFUSED_FOR = {
    "agent": [
        ["env.kwargs.length=7"],
        ["env.kwargs.lenght=7"],
        ["env.id=envs:Nope-v0"],
        ["env.id=envs:NonMatchingObject-v0", "env.kwargs={}"],
        ["agent.optimizer=rmsprop"],
        ["agent.encoder_width=8"],
        ["agent.normalize_observations=true"],
    ],
    "text": [
        ["data.path=other.txt"],
        ["data.path=absent.txt"],
        ["data.tokens=bytes"],
        ["train.batch_size=2"],
        ["model.tie_embeddings=false"],
        ["data={task: copy, length: 4}"],
    ],
    "sound": [
        ["data.path=loud"],
        ["data.path=absent"],
        ["data.quantiser=logistic_16"],
        ["data.gain=0.25"],
        ["train.batch_size=2"],
    ],
}
REFUSED_OVERWRITES = {
    "agent": [["env.id=envs:Nope-v0"], ["env.kwargs.lenght=7"], ["agent.batch_size=3"]],
    "text": [["data.path=absent.txt"], ["train.batch_size=100000"], ["data.tokens=subwords", "data.vocabulary_size=2"]],
    "sound": [["data.path=absent"], ["train.batch_size=100000"], ["data.sample_rate=16000"]],
}


@pytest.fixture(scope="module")
def scores(place: Path) -> dict[str, str]:
    """The evaluation of each run as it was trained."""
    return {name: evaluation(name) for name in CONFIGS}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a finished run of each path, and a folder that is not theirs."""
    place, before = tmp_path_factory.mktemp("place"), Path.cwd()
    os.chdir(place)
    Path("text.txt").write_text(TEXT)
    Path("other.txt").write_text(TEXT.replace("every", "verye"))
    for name, loudness in (("clips", 1.0), ("loud", 1.5)):
        for split, count in (("train", 2), ("validation", 1)):
            folder = Path(name) / split
            folder.mkdir(parents=True)
            for index in range(count):
                soundfile.write(folder / f"{index}.wav", noise(0.05, 8000, index) * 0.5 * loudness, 8000)
    for name, text in CONFIGS.items():
        Path(f"{name}.yaml").write_text(text)
        assert main(["train", f"{name}.yaml"]) == 0
    yield place
    os.chdir(before)


def digest(folder: Path) -> str:
    """A hash of the names and contents of everything in a folder."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        found.update(f"{path.relative_to(folder)} {path.is_dir()}\n".encode())
        if path.is_file():
            found.update(hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()


def evaluation(name: str) -> str:
    """What `evaluate --json` prints of a run."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert main(["evaluate", f"runs/{name}", "--json", *SCORE[name]]) == 0
    return printed.getvalue()


@st.composite
def commands(draw: st.DrawFn) -> tuple[str, list[str], bool]:
    """The name of a run, a command on it that is not to train it, and whether that command is refused."""
    name = draw(st.sampled_from(sorted(CONFIGS)))
    unit = "steps" if name == "agent" else "tokens"
    config = draw(st.sampled_from([f"{name}.yaml", f"runs/{name}"]))
    mode = draw(st.sampled_from(["--resume", "--resume", "--overwrite", ""]))
    if mode == "--resume":
        refused = draw(st.booleans())
        words = draw(st.sampled_from(REFUSED_ALWAYS + REFUSED_FOR[name] if refused else IDLE))
        if refused and words[0].startswith("core") and draw(st.booleans()):
            words = [*words, f"train.total_{unit}=4096"]
    else:
        refused = True
        words = draw(st.sampled_from(REFUSED_OVERWRITES[name])) if mode == "--overwrite" else []
    command = ["train", config, *words, *([mode] if mode else [])]
    return name, [word.replace("{unit}", unit) for word in command], refused


@settings(max_examples=30)
@given(commands())
def test_a_refused_or_idle_command_changes_not_a_byte(
    place: Path, scores: dict[str, str], drawn: tuple[str, list[str], bool]
) -> None:
    name, command, refused = drawn
    folders = digest(place / "runs")
    assert main(command) == (2 if refused else 0)
    assert digest(place / "runs") == folders
    assert evaluation(name) == scores[name]


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        (["runs/agent", "runs/agent"], "runs/agent: trains an agent; only models of text and of audio are compared"),
        (["runs/text", "runs/sound"], "runs/text trains models of text, runs/sound models of audio"),
        (["runs/sound", "runs/sound", "--text", "text.txt"], "--text: for models of text only"),
    ],
)
def test_what_cannot_be_compared_is_one_message(
    place: Path, capsys: pytest.CaptureFixture[str], runs: list[str], message: str
) -> None:
    assert main(["compare", *runs]) == 2
    assert message in capsys.readouterr().err
    assert main(["compare", "runs/sound", "runs/sound", "--split", "train", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["difference"], result["interval"], len(result["documents"])) == (0, [0, 0], 2)
    assert result["unit"].startswith("bits per sample (mu_law_256 at 8,000 samples a second, gain ")
