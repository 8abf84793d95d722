"""The command line: parse the arguments, run the command, turn errors into messages and exit codes."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from reverie import commands
from reverie.arguments import make_parser
from reverie.output import PrintableFormatter, discard_output, escape_unknown_characters, lossy_output
from reverie.own_packages import check_packages
from training.errors import UserError
from training.printable import printable
from training.stop_signals import StopRequested, raise_stop_signals

COMMANDS = {
    "train": commands.train,
    "evaluate": commands.evaluate,
    "compare": commands.compare,
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
    handler = logging.StreamHandler()
    handler.setFormatter(PrintableFormatter("%(levelname)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    # Else a file in the working folder, such as a run's, chooses from where Numba loads compiled code.
    os.environ.setdefault("NUMBA_CACHE_DIR", "")
    parser = make_parser()
    arguments, rest = parser.parse_known_args(argv)
    # argparse gives up on key=value words that follow an option; they are collected here.
    takes_overrides = "overrides" in arguments
    if rest and (not takes_overrides or any(word.startswith("-") for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if takes_overrides:
        arguments.overrides += rest
    try:
        require_working_folder()
        check_packages(Path(__file__).resolve().parent.parent)
        trains_a_config = arguments.command == "train" and not Path(arguments.config).is_dir()
        names_a_module = getattr(arguments, "granted", None) or ":" in (getattr(arguments, "name", None) or "")
        if trains_a_config or names_a_module:
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


def require_working_folder() -> None:
    """Raise UserError where the folder that the program was started in is gone: no relative path leads anywhere."""
    try:
        Path.cwd()
    except OSError as error:
        raise UserError(f"the working folder cannot be used: {error.strerror}; start from another one") from error


def _print_error(error: Exception) -> None:
    lines = printable(str(error)).split("\n")
    print("error:", "\n  ".join(["", *lines] if len(lines) > 1 else lines), file=sys.stderr)
