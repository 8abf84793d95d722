"""The parser of the command line: its commands, their options and the values of each."""

from __future__ import annotations

import argparse
import importlib.metadata
from pathlib import Path

EPILOG = """\
exit codes:
  0    success
  1    the run failed, or its last checkpoint could not be saved
  2    a mistake in the input: configuration, run folder, environment, arguments
  3    several updates in a row were not finite; the last checkpoint is unchanged
  129  stopped by SIGHUP, when its terminal was closed, after saving
  130  stopped by SIGINT, after saving
  141  nobody reads what it prints any more
  143  stopped by SIGTERM, after saving
"""


def make_parser() -> argparse.ArgumentParser:
    """The parser of `reverie`."""
    parser = argparse.ArgumentParser(
        prog="reverie",
        description="Train agents and models of text and audio that remember.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"reverie {_version()}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    command = commands.add_parser("train", help="train the experiment of a configuration", allow_abbrev=False)
    help_text = "a YAML file, a name from `reverie list configs`, or a run folder to --resume"
    command.add_argument("config", metavar="CONFIG", help=help_text)
    command.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. core.memory_length=64")
    command.add_argument(
        "--address", metavar="HOST:PORT|auto", help="place actors on this Ray cluster (default: this machine alone)"
    )
    mode = command.add_mutually_exclusive_group()
    mode.add_argument("--resume", action="store_true", help="continue the run in the run folder")
    mode.add_argument("--overwrite", action="store_true", help="delete the run in the run folder first")
    help_text = "with --resume: continue although the data differs from the checkpoint's"
    command.add_argument("--changed-data", action="store_true", help=help_text)
    help_text = "with --resume: continue although the environment or its arguments differ from the checkpoint's"
    command.add_argument("--changed-env", action="store_true", help=help_text)

    command = commands.add_parser("evaluate", help="evaluate a trained agent or model", allow_abbrev=False)
    command.add_argument("run", metavar="RUN", type=Path, help="a run folder")
    command.add_argument("--json", action="store_true", help="print JSON objects, one a line")
    group = command.add_argument_group("agents")
    group.add_argument("--episodes", type=_positive, help="episodes to play (default 100)")
    group.add_argument("--seed", type=_seed, help="seed of the episodes (default 0)")
    group.add_argument("--greedy", action="store_true", help="take the likeliest action instead of sampling")
    group.add_argument("--video", type=_video, metavar="FILE", help="write the first episode as .gif or .mp4")
    help_text = "environments played together (default as in an actor, agent.envs_per_actor)"
    group.add_argument("--envs", type=_positive, metavar="N", help=help_text)
    help_text = "steps after which an episode is cut, and counted as cut (default 100000)"
    group.add_argument("--max-steps", type=_positive, metavar="N", help=help_text)
    group = command.add_argument_group("language models")
    help_text = "e.g. core.memory_length=64; commas give a row each: core.memory_length=64,128"
    group.add_argument("overrides", nargs="*", metavar="key=value", help=help_text)
    _add_texts(group)
    help_text = "also report perplexity by the frequency of words in the train split"
    group.add_argument("--by-frequency", action="store_true", help=help_text)
    help_text = "also report nats by position in the document or clip, and draw them: what a memory buys"
    group.add_argument("--by-position", type=Path, metavar="PNG", help=help_text)
    help_text = "write position, token and log-probability of each token of a text, as .csv or .jsonl"
    group.add_argument("--per-token", type=_table, metavar="FILE", help=help_text)

    help_text = "compare two models of text or of audio, document by document"
    command = commands.add_parser("compare", help=help_text, allow_abbrev=False)
    command.add_argument("runs", metavar="RUN", type=Path, nargs=2, help="a run folder")
    command.add_argument("--json", action="store_true", help="print one JSON object, with every document")
    _add_texts(command)

    command = commands.add_parser("generate", help="generate text or sound with a trained model", allow_abbrev=False)
    command.add_argument("run", metavar="RUN", type=Path, help="a run folder")
    command.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. core.memory_length=256")
    prompt = command.add_mutually_exclusive_group()
    prompt.add_argument("--prompt", default="", help="the text, or the WAV or FLAC file, to continue (default none)")
    help_text = "the file whose text is to be continued; - is the standard input"
    prompt.add_argument("--prompt-file", metavar="FILE", help=help_text)
    command.add_argument("--temperature", type=_temperature, default=1.0, help="0 is greedy (default %(default)s)")
    command.add_argument("--top-k", type=_positive, help="sample from the k likeliest tokens (default all)")
    command.add_argument(
        "--top-p", type=_share, default=1.0, help="and from the likeliest of this probability (default 1)"
    )
    command.add_argument("--seed", type=_seed, default=0, help="seed of the sampling (default %(default)s)")
    command.add_argument("--json", action="store_true", help="print one JSON object at the end")
    group = command.add_argument_group("text")
    group.add_argument("--tokens", type=_positive, help="tokens to generate (default 500)")
    group = command.add_argument_group("audio")
    group.add_argument("--seconds", type=_seconds, help="seconds of sound to generate in each file (default 5)")
    group.add_argument("--streams", type=_streams, help="files to generate, all at once (default 1)")
    group.add_argument("--output", metavar="FOLDER", type=Path, help="where to write them (default RUN/generated)")

    command = commands.add_parser("report", help="draw learning curves, or the attention of a core", allow_abbrev=False)
    command.add_argument("runs", metavar="RUN", type=Path, nargs="+", help="a run folder")
    command.add_argument("--output", metavar="PNG", type=Path, default=Path("report.png"), help="default %(default)s")
    command.add_argument(
        "--attention",
        action="store_true",
        help="draw where the core of one run attends, or how long it ponders, instead of curves",
    )

    command = commands.add_parser("list", help="list memory cores, environments or configurations", allow_abbrev=False)
    command.add_argument("what", choices=("cores", "envs", "configs"))
    command.add_argument("name", nargs="?", help="with cores: explain this one and each of its options")
    for name in ("evaluate", "compare", "generate"):
        help_text = "which one of a run: newest, best (on held-out data, in training), or its step (default newest)"
        commands.choices[name].add_argument(
            "--checkpoint", type=_checkpoint, metavar="newest|best|STEP", default="newest", help=help_text
        )
    for name in ("train", "evaluate", "compare", "generate", "report"):
        help_text = "a module or package that the configuration may import, such as that of a core; may be repeated"
        commands.choices[name].add_argument(
            "--import", dest="granted", metavar="MODULE", action="append", default=[], help=help_text
        )
    return parser


def _add_texts(command: argparse._ActionsContainer) -> None:
    """Add what says which documents are scored."""
    chosen = command.add_mutually_exclusive_group()
    splits = ("train", "validation", "test")
    chosen.add_argument("--split", choices=splits, help="the part of the run's data (default validation)")
    help_text = "score these texts instead, each file as one document; - is the standard input"
    chosen.add_argument("--text", metavar="FILE", nargs="+", help=help_text)


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 10 and 1 <= int(text) <= 10**9):
        raise argparse.ArgumentTypeError(f"expected an integer from 1 to 1000000000, got {text!r}")
    return int(text)


def _checkpoint(text: str) -> str:
    if text not in ("newest", "best") and not (text.isascii() and text.isdecimal() and len(text) <= 12):
        raise argparse.ArgumentTypeError(f"expected newest, best or a step, got {text!r}")
    return text


def _seed(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 10 and int(text) < 2**31):
        raise argparse.ArgumentTypeError(f"expected an integer from 0 to {2**31 - 1}, got {text!r}")
    return int(text)


def _temperature(text: str) -> float:
    value = _number(text)
    if not 0 <= value <= 1000:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1000, got {text!r}")
    return value


def _seconds(text: str) -> float:
    value = _number(text)
    if not 0 < value <= 3600:
        raise argparse.ArgumentTypeError(f"expected a number above 0 and up to 3600, got {text!r}")
    return value


def _streams(text: str) -> int:
    value = _positive(text)
    if value > 4096:
        raise argparse.ArgumentTypeError(f"expected at most 4096, got {text!r}")
    return value


def _share(text: str) -> float:
    value = _number(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"expected a number above 0 and up to 1, got {text!r}")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected a number, got {text!r}") from error


def _video(text: str) -> Path:
    if not text.endswith((".gif", ".mp4")):
        raise argparse.ArgumentTypeError(f"expected a file name ending in .gif or .mp4, got {text!r}")
    return Path(text)


def _table(text: str) -> Path:
    if not text.endswith((".csv", ".jsonl")):
        raise argparse.ArgumentTypeError(f"expected a file name ending in .csv or .jsonl, got {text!r}")
    return Path(text)


def _version() -> str:
    try:
        return importlib.metadata.version("reverie")
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"
