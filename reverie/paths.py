"""The three paths of the program: agents, text and audio."""

from __future__ import annotations

import argparse
from typing import Any

import agents.config
import audio.config
import lm.config
from reverie.agent_path import AgentPath
from reverie.audio_path import AudioPath
from reverie.path_interface import PathInterface
from reverie.text_path import TextPath
from training.errors import UserError

Experiment = agents.config.ExperimentConfig | lm.config.ExperimentConfig | audio.config.ExperimentConfig

PATHS: tuple[PathInterface[Any], ...] = (AgentPath(), TextPath(), AudioPath())

FLAGS = {"overrides": "key=value"}
"""Options that a user writes otherwise than as `--name`."""


def path_of(config: Experiment) -> PathInterface[Any]:
    """The path of an experiment."""
    return next(path for path in PATHS if isinstance(config, path.schemas))


def refuse_options(path: PathInterface[Any], arguments: argparse.Namespace, where: str) -> None:
    """Raise UserError if options are given that only other paths take; `where` is the run or the configuration."""
    command, problems = arguments.command, dict[str, list[str]]()
    for name, value in vars(arguments).items():
        takers = [other.name for other in PATHS if name in other.options.get(command, ())]
        if takers and path.name not in takers and value is not None and value is not False and value != []:
            problems.setdefault(" and ".join(takers), []).append(FLAGS.get(name, f"--{name.replace('_', '-')}"))
    if problems:
        refusals = [f"{', '.join(flags)}: for {takers} only" for takers, flags in problems.items()]
        raise UserError(f"{where}: {'; '.join(refusals)}")
