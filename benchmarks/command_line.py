"""The command line of a benchmark: its docstring as the help, and the options that several of them share."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

HELP = {
    "threads": "threads of torch",
    "seed": "of all random numbers",
    "seeds": "a run is made for each",
    "rounds": "repetitions of the whole measurement",
    "parallel": "runs at a time",
    "root": "folder of the run folders",
}
"""The shared options."""


def make_parser(doc: str | None, **defaults: int | str | Sequence[int]) -> argparse.ArgumentParser:
    """The parser of a module with this docstring, with those of the shared options that are given a default.

    An option whose default is a list takes several values. Raises KeyError for an option that is not shared.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in defaults.items():
        text = f"{HELP[name]} (default: {default})"
        if isinstance(default, (int, str)):
            parser.add_argument(f"--{name}", type=type(default), default=default, help=text)
        else:
            parser.add_argument(f"--{name}", type=type(default[0]), nargs="+", default=default, help=text)
    return parser


def split_overrides(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words of a command line that are no KEY=VALUE, and those that are."""
    return [word for word in words if "=" not in word], [word for word in words if "=" in word]
