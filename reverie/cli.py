"""The command line: train, evaluate, generate, report, list."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.metadata
import importlib.util
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from reverie.errors import UserError

if TYPE_CHECKING:
    from reverie.config import Experiment
    from reverie.trainer import Listening, Trainer

EPILOG = """\
exit codes:
  0    done
  1    the run failed, or its last checkpoint could not be saved
  2    a mistake in the input: configuration, run folder, environment, arguments
  130  stopped by SIGINT, after saving
  143  stopped by SIGTERM, after saving
"""
OUR_PACKAGES = ("memory_cores", "envs", "agents", "audio", "lm")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    parser = _parser()
    arguments, rest = parser.parse_known_args(argv)
    # argparse gives up on key=value words that follow an option; they are collected here.
    takes_overrides = "overrides" in arguments
    if rest and (not takes_overrides or any(word.startswith("-") for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if takes_overrides:
        arguments.overrides += rest
    try:
        check_packages()
        # `module:Name-v0` may name a module in the user's folder, which `python -m` finds and a script does not.
        sys.path.append(str(Path.cwd()))
        match arguments.command:
            case "train":
                if arguments.changed_data and not arguments.resume:
                    raise UserError("--changed-data: is for --resume alone")
                return train(
                    arguments.config, arguments.overrides, arguments.resume, arguments.overwrite, arguments.changed_data
                )
            case "evaluate":
                return evaluate(arguments)
            case "generate":
                return generate(arguments)
            case "report":
                return report(arguments.runs, arguments.output)
            case _:
                return list_names(arguments.what)
    except UserError as error:
        _print_error(error)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        code = _code_of_expected(error)
        if code is None:
            raise
        _print_error(error)
        return code


def train(config_name: str, overrides: Sequence[str], resume: bool, overwrite: bool, changed_data: bool = False) -> int:
    """Train the experiment of a configuration in its run folder."""
    from reverie.config import load_experiment

    config = load_experiment(find_config(config_name), overrides)

    import torch

    from reverie.run_folder import open_run

    with open_run(config, resume=resume, overwrite=overwrite) as folder:
        torch.set_num_threads(config.train.num_threads)
        from reverie import train as training

        trainer, listening = make_trainer(config)
        with contextlib.closing(trainer):
            print(f"training {config.core.name} on {_subject(config)} in {folder}", file=sys.stderr)
            return training.run(config, trainer, folder, resume, changed_data, listening)


def make_trainer(config: Experiment) -> tuple[Trainer, Listening | None]:
    """The trainer of an experiment, and what is to be heard of it."""
    import audio.config
    import lm.config

    if isinstance(config, audio.config.ExperimentConfig):
        from reverie import audio_model

        return audio_model.make_trainer(config)
    if isinstance(config, lm.config.ExperimentConfig):
        from lm import trainer

        return trainer.make_trainer(config), None
    from agents.trainer import ImpalaTrainer

    return ImpalaTrainer(config), None


def evaluate(arguments: argparse.Namespace) -> int:
    """Evaluate the newest checkpoint of a run: an agent by playing episodes, a model by scoring a split."""
    import agents.config
    import audio.config
    from reverie.config import load_experiment

    run: Path = arguments.run
    config = load_experiment(run / "config.yaml")
    if not isinstance(config, agents.config.ExperimentConfig):
        _refuse_options(arguments, "agents", ("episodes", "seed", "greedy", "video", "allow_import"))
        from reverie import audio_model, language_model

        run, overrides, split = arguments.run, arguments.overrides, arguments.split
        if isinstance(config, audio.config.ExperimentConfig):
            _refuse_options(arguments, "models of text", ("by_frequency",))
            return audio_model.evaluate(run, overrides, split, arguments.json)
        return language_model.evaluate(run, overrides, split, arguments.by_frequency, arguments.json)
    _refuse_options(arguments, "language models", ("split", "by_frequency", "overrides"))
    _refuse_unasked_import(config.env.id, run, arguments.allow_import)

    import torch

    from reverie.run_folder import newest_checkpoint

    found = newest_checkpoint(run)
    torch.set_num_threads(config.train.num_threads)
    from agents.evaluation import evaluate as play

    episodes, seed = arguments.episodes or 100, arguments.seed or 0
    result = play(config, found.weights, episodes, seed, arguments.greedy, arguments.video)
    if arguments.json:
        print(json.dumps({"run": str(run), "step": found.step, **dataclasses.asdict(result)}))
        return 0
    low, high = result.return_interval
    print(f"{run} at step {found.step:,}, {result.episodes} episodes from seed {result.seed}")
    print(f"  mean return   {result.mean_return:.4g}  (95 % interval {low:.4g} to {high:.4g})")
    if result.success_rate is not None:
        print(f"  success rate  {result.success_rate:.1%}")
    print(f"  mean length   {result.mean_length:.4g} steps")
    return 0


def generate(arguments: argparse.Namespace) -> int:
    """Let the newest checkpoint of a model go on from a prompt: text as it is written, sound into files."""
    import audio.config
    from lm.model import Sampling
    from reverie import audio_model, language_model
    from reverie.config import load_experiment

    sampling = Sampling(arguments.temperature, arguments.top_k, arguments.top_p)
    if isinstance(load_experiment(arguments.run / "config.yaml"), audio.config.ExperimentConfig):
        _refuse_options(arguments, "models of text", ("tokens",))
        return audio_model.generate(
            arguments.run,
            arguments.overrides,
            Path(arguments.prompt) if arguments.prompt else None,
            arguments.seconds or 5.0,
            arguments.streams or 1,
            arguments.output or arguments.run / "generated",
            sampling,
            arguments.seed,
            arguments.json,
        )
    _refuse_options(arguments, "models of audio", ("seconds", "streams", "output"))
    return language_model.generate(
        arguments.run,
        arguments.overrides,
        arguments.prompt,
        arguments.tokens or 500,
        sampling,
        arguments.seed,
        arguments.json,
    )


def report(runs: Sequence[Path], output: Path) -> int:
    """Draw the learning curves of runs and print their final values."""
    from reverie.report import draw, read_runs, table

    groups = read_runs(runs)
    draw(groups, output)
    print(table(groups))
    print(f"curves drawn to {output}")
    return 0


def list_names(what: str) -> int:
    """Print the memory cores, environments or configurations there are."""
    if what == "cores":
        import memory_cores

        for name in memory_cores.names():
            print(f"{name:<20} {memory_cores.describe(name)}")
            for option, parameter in memory_cores.options(name).items():
                print(f"    {option} = {parameter.default!r}")
    elif what == "envs":
        import envs

        print("\n".join(envs.names()))
    else:
        print(*shipped_configs(), sep="\n")
    return 0


def shipped_configs() -> dict[str, Path]:
    """The configurations that come with the program, by the name that `train` takes."""
    package = Path(__file__).resolve().parent
    for root in (package / "configs", package.parent / "configs"):
        if root.is_dir():
            return {path.relative_to(root).as_posix(): path for path in sorted(root.rglob("*.yaml"))}
    return {}


def find_config(name: str) -> Path:
    """The file a user means: a path, or else the name of a shipped configuration."""
    shipped = shipped_configs()
    return Path(name) if Path(name).exists() else shipped.get(name, shipped.get(f"{name}.yaml", Path(name)))


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


def _code_of_expected(error: Exception) -> int | None:
    """The exit code of an error of our other packages that its message explains; None for any other."""
    kinds = (
        ("envs", "EnvError", 2),
        ("envs", "EnvFault", 1),
        ("agents.learner", "TrainingError", 1),
        ("lm.errors", "InputError", 2),
        ("lm.errors", "TrainingError", 1),
    )
    for module, name, code in kinds:
        # A package that was never imported, to keep the start fast, has raised nothing.
        if module in sys.modules and isinstance(error, getattr(sys.modules[module], name)):
            return code
    return None


def _subject(config: Experiment) -> str:
    import agents.config
    import lm.config

    if isinstance(config, agents.config.ExperimentConfig):
        return config.env.id
    return config.data.task if isinstance(config.data, lm.config.TaskConfig) else config.data.path


def _refuse_options(arguments: argparse.Namespace, whose: str, names: Sequence[str]) -> None:
    """Refuse options that say nothing about what this run has trained."""
    given = [name for name in names if getattr(arguments, name)]
    if given:
        flags = {"allow_import": "--import", "overrides": "key=value"}
        listing = ", ".join(flags.get(name, f"--{name.replace('_', '-')}") for name in given)
        raise UserError(f"{arguments.run}: {listing}: for {whose} only")


def _refuse_unasked_import(env_id: str, run: Path, allowed: str | None) -> None:
    """A run folder may come from anywhere: the code it names is imported only if the user names it too."""
    from reverie.run_folder import RunFolderError

    module, colon, _ = env_id.partition(":")
    if colon and module not in ("envs", allowed):
        raise RunFolderError(
            f"{run}: its environment {env_id!r} imports the module {module!r}; "
            f"if you trust that code, add --import {module}"
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="reverie",
        description="Train agents and language models that remember.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"reverie {_version()}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    command = commands.add_parser("train", help="train the experiment of a configuration", allow_abbrev=False)
    command.add_argument("config", metavar="CONFIG", help="a YAML file, or a name from `reverie list configs`")
    command.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. core.memory_length=64")
    mode = command.add_mutually_exclusive_group()
    mode.add_argument("--resume", action="store_true", help="continue the run in the run folder")
    mode.add_argument("--overwrite", action="store_true", help="delete the run in the run folder first")
    help_text = "with --resume: go on although the data is not that of the checkpoint"
    command.add_argument("--changed-data", action="store_true", help=help_text)

    command = commands.add_parser("evaluate", help="evaluate a trained agent or model", allow_abbrev=False)
    command.add_argument("run", metavar="RUN", type=Path, help="a run folder")
    command.add_argument("--json", action="store_true", help="print JSON objects, one a line")
    group = command.add_argument_group("agents")
    group.add_argument("--episodes", type=_positive, help="episodes to play (default 100)")
    group.add_argument("--seed", type=_seed, help="seed of the episodes (default 0)")
    group.add_argument("--greedy", action="store_true", help="take the likeliest action, do not sample")
    group.add_argument("--video", type=_video, metavar="FILE", help="write the first episode as .gif or .mp4")
    group.add_argument(
        "--import", dest="allow_import", metavar="MODULE", help="a module the run's environment may import"
    )
    group = command.add_argument_group("language models")
    help_text = "e.g. core.memory_length=64; commas give a row each: core.memory_length=64,128"
    group.add_argument("overrides", nargs="*", metavar="key=value", help=help_text)
    group.add_argument("--split", choices=("train", "validation", "test"), help="default validation")
    help_text = "perplexity too of words that are frequent and rare in the train split"
    group.add_argument("--by-frequency", action="store_true", help=help_text)

    command = commands.add_parser("generate", help="let a trained model write text or sound", allow_abbrev=False)
    command.add_argument("run", metavar="RUN", type=Path, help="a run folder")
    command.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. core.memory_length=256")
    command.add_argument("--prompt", default="", help="the text, or the WAV or FLAC file, to go on from (default none)")
    command.add_argument("--temperature", type=_temperature, default=1.0, help="0 is greedy (default %(default)s)")
    command.add_argument("--top-k", type=_positive, help="sample from the k likeliest tokens (default all)")
    command.add_argument("--top-p", type=_share, default=1.0, help="and from this share of the probability (default 1)")
    command.add_argument("--seed", type=_seed, default=0, help="seed of the sampling (default %(default)s)")
    command.add_argument("--json", action="store_true", help="print one JSON object at the end")
    group = command.add_argument_group("text")
    group.add_argument("--tokens", type=_positive, help="tokens to write (default 500)")
    group = command.add_argument_group("audio")
    group.add_argument("--seconds", type=_seconds, help="of sound to write in each file (default 5)")
    group.add_argument("--streams", type=_streams, help="files, written side by side (default 1)")
    group.add_argument("--output", metavar="FOLDER", type=Path, help="where to write them (default RUN/generated)")

    command = commands.add_parser("report", help="draw learning curves of runs", allow_abbrev=False)
    command.add_argument("runs", metavar="RUN", type=Path, nargs="+", help="a run folder")
    command.add_argument("--output", metavar="PNG", type=Path, default=Path("report.png"), help="default %(default)s")

    command = commands.add_parser("list", help="list what there is", allow_abbrev=False)
    command.add_argument("what", choices=("cores", "envs", "configs"))
    return parser


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 10 and 1 <= int(text) <= 10**9):
        raise argparse.ArgumentTypeError(f"expected an integer from 1 to 1000000000, got {text!r}")
    return int(text)


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


def _version() -> str:
    try:
        return importlib.metadata.version("reverie")
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"
