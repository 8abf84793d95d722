"""The commands of `reverie`: each takes its parsed arguments and returns an exit code.

Imports that take long are inside the functions, so that `--help` and `list` stay fast.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reverie.permissions import ENV_ID, require_grants
from reverie.shipped_configs import find_config, shipped_configs
from training.errors import UserError

if TYPE_CHECKING:
    from reverie.checkpoint import Checkpoint
    from reverie.path_interface import PathInterface
    from reverie.paths import Experiment


def train(arguments: argparse.Namespace) -> int:
    """Train the experiment of a configuration in its run folder."""
    from reverie.experiment import load_experiment
    from reverie.paths import path_of, refuse_options

    resume, changed_data = arguments.resume, arguments.changed_data
    if changed_data and not resume:
        raise UserError("--changed-data: is for --resume alone")
    config = load_experiment(find_config(arguments.config), arguments.overrides, arguments.granted)
    path = path_of(config)
    refuse_options(path, arguments, arguments.config)
    # To train in an environment is to name it; what else a configuration brings along is asked for.
    named = [(field, name) for field, name in path.imported_names(config) if field != ENV_ID]
    require_grants(named, arguments.granted, arguments.config)

    import torch

    from reverie.run_folder import open_run
    from reverie.train import run
    from training.device import require_device

    with open_run(config, resume=resume, overwrite=arguments.overwrite) as folder:
        torch.set_num_threads(config.train.num_threads)
        require_device(config.train.device)
        trainer, sampling = path.make_trainer(config, arguments.address)
        with contextlib.closing(trainer):
            print(f"training {config.core.name} on {path.subject(config)} in {folder}", file=sys.stderr)
            return run(config, trainer, folder, resume, changed_data, sampling)


def evaluate(arguments: argparse.Namespace) -> int:
    """Evaluate the newest checkpoint of a run: an agent by playing episodes, a model by scoring a split."""
    from reverie.tables import combinations

    run: Path = arguments.run
    # All configurations are checked before the first, perhaps long, evaluation.
    path, variants = _load_variants(run, arguments, combinations(arguments.overrides))
    path.evaluate(run, _newest_checkpoint(run, path), variants, arguments)
    return 0


def generate(arguments: argparse.Namespace) -> int:
    """Continue a prompt with the newest checkpoint of a model: text to stdout, sound to files."""
    run: Path = arguments.run
    path, [(_, config)] = _load_variants(run, arguments, [arguments.overrides])
    path.generate(run, _newest_checkpoint(run, path), config, arguments)
    return 0


def report(arguments: argparse.Namespace) -> int:
    """Draw the learning curves of runs and print their final values, or draw the core of one run at work."""
    if arguments.attention:
        return draw_attention(arguments)
    from reverie.report import draw, read_runs, table

    groups = read_runs(arguments.runs)
    draw(groups, arguments.output)
    print(table(groups))
    print(f"curves drawn to {arguments.output}")
    return 0


def draw_attention(arguments: argparse.Namespace) -> int:
    """Draw where the memory core of a run attends and how long it ponders."""
    if len(arguments.runs) > 1:
        raise UserError("--attention: expected one run")
    (run,) = arguments.runs
    path, [(_, config)] = _load_variants(run, arguments, [[]])
    from reverie.diagnostics import draw_core

    draw_core(run, config, _newest_checkpoint(run, path), arguments.output)
    print(f"drawn to {arguments.output}, and for TensorBoard to {run}")
    return 0


def list_names(arguments: argparse.Namespace) -> int:
    """Print the memory cores, environments or configurations there are, or explain one core."""
    if arguments.what != "cores" and arguments.name is not None:
        raise UserError(f"list {arguments.what}: takes no name, got {arguments.name!r}")
    if arguments.what == "cores":
        from reverie.core_listing import explain_core, list_cores

        print(list_cores() if arguments.name is None else explain_core(arguments.name))
    elif arguments.what == "envs":
        import envs

        print("\n".join(envs.names()))
    else:
        print(*shipped_configs(), sep="\n")
    return 0


def _load_variants(
    run: Path, arguments: argparse.Namespace, choices: Sequence[list[str]]
) -> tuple[PathInterface[Any], list[tuple[list[str], Experiment]]]:
    """The path of a run, and its configuration once for each choice of overrides.

    Raises UserError for options that the path does not take and for overrides that choose another path.
    """
    from reverie.experiment import load_experiment
    from reverie.paths import path_of, refuse_options
    from reverie.run_folder import CONFIG

    granted = arguments.granted
    config = load_experiment(run / CONFIG, granted=granted)
    path = path_of(config)
    refuse_options(path, arguments, str(run))
    require_grants(path.imported_names(config), granted, str(run))
    variants = [(words, load_experiment(run / CONFIG, words, granted) if words else config) for words in choices]
    for words, variant in variants:
        if path_of(variant) is not path:
            given, other = " ".join(words), path_of(variant).name
            raise UserError(f"{run}: trains {path.name}; with {given} it would train {other}")
    return path, variants


def _newest_checkpoint(run: Path, path: PathInterface[Any]) -> Checkpoint:
    """The newest checkpoint of a run; raises UserError if another path wrote it."""
    from reverie.run_folder import newest_checkpoint

    checkpoint = newest_checkpoint(run)
    if checkpoint.fingerprint.get("path") != path.fingerprint:
        raise UserError(f"{checkpoint.path}: is not a checkpoint of {path.name}")
    return checkpoint
