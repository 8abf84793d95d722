"""The commands of `reverie`: each takes its parsed arguments and returns an exit code.

Imports that take long are inside the functions, so that `--help` and `list` stay fast.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reverie.permissions import ENV_ARGUMENTS, ENV_ID, require_grants
from reverie.shipped_configs import find_config, shipped_configs
from training.errors import UserError
from training.printable import printable

if TYPE_CHECKING:
    from reverie.checkpoint import Checkpoint
    from reverie.path_interface import PathInterface
    from reverie.paths import Experiment


def train(arguments: argparse.Namespace) -> int:
    """Train the experiment of a configuration in its run folder."""
    from reverie.experiment import load_experiment
    from reverie.paths import path_of, refuse_options

    flags = {"--changed-data": arguments.changed_data, "--changed-env": arguments.changed_env}
    accepted = [flag for flag, is_given in flags.items() if is_given]
    if accepted and not arguments.resume:
        raise UserError(f"{', '.join(accepted)}: is for --resume alone")
    file, overrides, is_run = find_config(arguments.config), arguments.overrides, Path(arguments.config).is_dir()
    if is_run:
        if not arguments.resume:
            raise UserError(f"{arguments.config}: is a folder; --resume continues the run in it")
        file, overrides = _configuration_in(Path(arguments.config), overrides)
    config = load_experiment(file, overrides, arguments.granted)
    path = path_of(config)
    refuse_options(path, arguments, arguments.config)
    # To train in an environment is to name it, unless a folder names it; what else a configuration brings is asked for.
    given = {word.partition("=")[0] for word in overrides} if is_run else {ENV_ID, ENV_ARGUMENTS}
    unasked = given & {ENV_ID, ENV_ARGUMENTS}
    named = [(field, name) for field, name in path.imported_names(config) if field not in unasked]
    require_grants(named, arguments.granted, arguments.config)

    import torch

    from reverie.checkpoint import newest_fingerprint
    from reverie.run_folder import CHECKPOINTS, open_run
    from reverie.train import run
    from training.device import require_device

    with open_run(config, resume=arguments.resume, overwrite=arguments.overwrite) as folder:
        torch.set_num_threads(config.train.num_threads)
        require_device(config.train.device)
        trained = newest_fingerprint(folder.path / CHECKPOINTS) if arguments.resume else None
        if trained is not None and trained.get("path") != path.fingerprint:
            raise UserError(f"{folder.path}: holds no run of {path.name}")
        trainer, sampling = path.make_trainer(config, arguments.address, trained)
        with contextlib.closing(trainer):
            what = f"{config.core.name} on {path.subject(config)}"
            print(printable(f"training {what} in {folder.path}"), file=sys.stderr)
            return run(config, trainer, folder, accepted, sampling)


def _configuration_in(run: Path, overrides: Sequence[str]) -> tuple[Path, list[str]]:
    """The configuration in a run folder, with overrides to which is added where the folder is now."""
    from reverie.run_folder import CONFIG

    fixed = [word for word in overrides if word.split("=")[0] in ("run", "run.name", "run.root")]
    if fixed:
        raise UserError(f"{', '.join(fixed)}: the run is the one in {run}")
    place = Path(os.path.abspath(run))
    return run / CONFIG, [*overrides, f"run.name={json.dumps(place.name)}", f"run.root={json.dumps(str(place.parent))}"]


def evaluate(arguments: argparse.Namespace) -> int:
    """Evaluate a checkpoint of a run: an agent by playing episodes, a model by scoring a split."""
    from reverie.tables import combinations

    run: Path = arguments.run
    # All configurations are checked before the first, perhaps long, evaluation.
    path, variants = _load_variants(run, arguments, combinations(arguments.overrides))
    path.evaluate(run, _checkpoint(run, path, arguments, arguments.checkpoint), variants, arguments)
    return 0


def compare(arguments: argparse.Namespace) -> int:
    """Compare two models on the same documents."""
    from reverie.comparison import print_comparison

    chosen = []
    for run in arguments.runs:
        path, [(_, config)] = _load_variants(run, arguments, [[]])
        chosen.append((run, path, config, _checkpoint(run, path, arguments, arguments.checkpoint)))
    print_comparison(chosen, arguments)
    return 0


def generate(arguments: argparse.Namespace) -> int:
    """Continue a prompt with a checkpoint of a model: text to stdout, sound to files."""
    run: Path = arguments.run
    path, [(_, config)] = _load_variants(run, arguments, [arguments.overrides])
    path.generate(run, _checkpoint(run, path, arguments, arguments.checkpoint), config, arguments)
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
    from reverie.checkpoint_choice import NEWEST
    from reverie.diagnostics import draw_core

    draw_core(run, config, _checkpoint(run, path, arguments, NEWEST), arguments.output)
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


def _checkpoint(run: Path, path: PathInterface[Any], arguments: argparse.Namespace, choice: str) -> Checkpoint:
    """The checkpoint of a run that is chosen as in `find_checkpoint`.

    Raises UserError if there is none, if another path wrote it, or if the folder's configuration is not the one that it
    was trained with.
    """
    from reverie.checkpoint_choice import find_checkpoint
    from reverie.experiment import load_experiment
    from reverie.fingerprint import differences
    from reverie.run_folder import CONFIG

    def adopt(found: Checkpoint) -> None:
        if found.fingerprint.get("path") != path.fingerprint:
            raise UserError(f"{found.path}: is not a checkpoint of {path.name}")
        path.check_content(found)

    checkpoint = find_checkpoint(run, choice, adopt)
    identity = path.identity(load_experiment(run / CONFIG, granted=arguments.granted))
    saved = {key: checkpoint.fingerprint[key] for key in identity if key in checkpoint.fingerprint}
    changed = differences(saved, identity)
    if changed:
        listing = "\n  ".join(changed)
        raise UserError(f"{run / CONFIG}: is not what {checkpoint.path} was trained with:\n  {listing}")
    return checkpoint
