"""The command line: train, evaluate, generate, report, list."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.util
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from reverie.arguments import make_parser
from training.errors import UserError

if TYPE_CHECKING:
    from reverie.config import Experiment
    from reverie.train import SamplingPlan
    from training.trainer import Trainer

OUR_PACKAGES = ("memory_cores", "training", "envs", "agents", "audio", "lm")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
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
        # `module:Name-v0` may name a module in the user's folder, which `python -m` finds and a script does not.
        sys.path.append(str(Path.cwd()))
        match arguments.command:
            case "train":
                return train(arguments)
            case "evaluate":
                return evaluate(arguments)
            case "generate":
                return generate(arguments)
            case "report":
                return report(arguments)
            case _:
                return list_names(arguments.what)
    except UserError as error:
        _print_error(error)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def train(arguments: argparse.Namespace) -> int:
    """Train the experiment of a configuration in its run folder."""
    from reverie.config import load_experiment

    resume, changed_data = arguments.resume, arguments.changed_data
    if changed_data and not resume:
        raise UserError("--changed-data: is for --resume alone")
    config = load_experiment(find_config(arguments.config), arguments.overrides)

    import torch

    from reverie.run_folder import open_run

    with open_run(config, resume=resume, overwrite=arguments.overwrite) as folder:
        torch.set_num_threads(config.train.num_threads)
        from reverie import train as training

        trainer, sampling = make_trainer(config, arguments.address)
        with contextlib.closing(trainer):
            print(f"training {config.core.name} on {_subject(config)} in {folder}", file=sys.stderr)
            return training.run(config, trainer, folder, resume, changed_data, sampling)


def make_trainer(config: Experiment, address: str | None = None) -> tuple[Trainer, SamplingPlan | None]:
    """The trainer of an experiment, with actors on the Ray cluster at `address`, and the plan of its audio samples."""
    import agents.config
    import audio.config
    import lm.config
    from training.device import require_device

    require_device(config.train.device)
    if address is not None and not isinstance(config, agents.config.ExperimentConfig):
        raise UserError("--address: for agents only")
    if isinstance(config, audio.config.ExperimentConfig):
        from reverie import audio_model

        return audio_model.make_trainer(config)
    if isinstance(config, lm.config.ExperimentConfig):
        from lm import trainer

        return trainer.make_trainer(config), None
    from agents.trainer import ImpalaTrainer

    if address is not None and not config.agent.num_actors:
        raise UserError("--address: agent.num_actors is 0, so there are no actor processes to place")
    return ImpalaTrainer(config, address), None


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


def report(arguments: argparse.Namespace) -> int:
    """Draw the learning curves of runs and print their final values, or draw what the core of one run attends to."""
    if arguments.attention:
        return look_inside(arguments)
    from reverie.report import draw, read_runs, table

    groups = read_runs(arguments.runs)
    draw(groups, arguments.output)
    print(table(groups))
    print(f"curves drawn to {arguments.output}")
    return 0


def look_inside(arguments: argparse.Namespace) -> int:
    """Draw where the memory core of a run attends and how long it ponders."""
    import agents.config
    from reverie.config import load_experiment

    if len(arguments.runs) > 1:
        raise UserError("--attention: expected one run")
    (run,) = arguments.runs
    config = load_experiment(run / "config.yaml")
    if isinstance(config, agents.config.ExperimentConfig):
        _refuse_unasked_import(config.env.id, run, arguments.allow_import)
    from reverie.inside import draw_inside

    draw_inside(run, config, arguments.output)
    print(f"drawn to {arguments.output}, and for TensorBoard to {run}")
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
