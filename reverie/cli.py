"""The command line: parse the arguments, run the command, turn errors into messages and exit codes."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from reverie import commands
from reverie.arguments import make_parser
from reverie.output import discard_output, escape_unknown_characters, lossy_output
from training.errors import UserError
from training.stop_signals import StopRequested, raise_stop_signals

OUR_PACKAGES = ("memory_cores", "training", "envs", "agents", "audio", "lm")
COMMANDS = {
    "train": commands.train,
    "evaluate": commands.evaluate,
    "generate": commands.generate,
    "report": commands.report,
    "list": commands.list_names,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; that of a pipe whose reader has gone is 141, but training goes on."""
    escape_unknown_characters(sys.stdout)
    with lossy_output("stderr"):
        try:
            code = run_command(argv)
            if sys.stdout is not None:
                sys.stdout.flush()
        except BrokenPipeError:
            discard_output()
            return 128 + signal.SIGPIPE
        return code


def run_command(argv: Sequence[str] | None) -> int:
    """Run one command and return its exit code; raises BrokenPipeError where nobody reads its output any more."""
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    parser = make_parser()
    arguments, rest = parser.parse_known_args(argv)
    # argparse gives up on key=value words that follow an option; they are collected here.
    takes_overrides = "overrides" in arguments
    if rest and (not takes_overrides or any(word.startswith("-") for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if takes_overrides:
        arguments.overrides += rest
    try:
        check_packages()
        trains_a_config = arguments.command == "train" and not Path(arguments.config).is_dir()
        if trains_a_config or getattr(arguments, "granted", None):
            # The user's own modules may lie where they stand. Last, so that no file there stands in for a library's;
            # and not for a run folder, which may come from anywhere.
            sys.path.append(str(Path.cwd()))
        if arguments.command != "list":
            print(f"reverie {arguments.command}: loading", file=sys.stderr, flush=True)  # torch takes seconds
        lossy = lossy_output("stdout") if arguments.command == "train" else contextlib.nullcontext()
        with lossy, raise_stop_signals():
            return COMMANDS[arguments.command](arguments)
    except UserError as error:
        _print_error(error)
        return error.exit_code
    except StopRequested as stop:
        print(stop, file=sys.stderr)
        return stop.exit_code
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def check_packages() -> None:
    """Refuse to run with another distribution's `agents` or `envs`; other projects use these names too."""
    home = Path(__file__).resolve().parent.parent
    for name in OUR_PACKAGES:
        spec = importlib.util.find_spec(name)
        place = Path(spec.origin).resolve() if spec is not None and spec.origin else None
        if place is None or place.parent.parent != home:
            raise UserError(
                f"the package {name!r} is found at {place}, not beside reverie in {home}: another project's "
                f"package of that name is in the way; install reverie in an environment of its own"
            )


def _print_error(error: Exception) -> None:
    lines = str(error).splitlines()
    print("error:", "\n  ".join(["", *lines] if len(lines) > 1 else lines), file=sys.stderr)
