"""Agents on the command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from agents.config import ExperimentConfig
from reverie.path_interface import Batch, Curve, PathInterface, SamplingPlan, Variants
from reverie.permissions import ENV_ARGUMENTS, ENV_ID
from training.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from lm.comparison import DocumentScores
    from lm.loose_texts import Text
    from memory_cores import MemoryCore
    from reverie.checkpoint import Checkpoint
    from training.trainer import Trainer


class AgentPath(PathInterface[ExperimentConfig]):
    """Reinforcement learning in an environment."""

    name = "agents"
    schemas = (ExperimentConfig,)
    fingerprint = "rl"
    options: ClassVar = {
        "train": frozenset({"address", "changed_env"}),
        "evaluate": frozenset({"episodes", "seed", "greedy", "video", "envs", "max_steps"}),
    }
    curves: ClassVar = {
        "episode/return": Curve("mean episode return", "environment steps"),
        "episode/success": Curve("success rate", "environment steps", is_share=True),
        "evaluation/return": Curve("mean return of held-out episodes", "environment steps", is_held_out=True),
    }

    def subject(self, config: ExperimentConfig) -> str:
        return config.env.id

    def batch(self, config: ExperimentConfig) -> Batch:
        agent = config.agent
        moments = 2 if agent.optimizer == "adam" else 1
        return Batch("agent.batch_size", agent.batch_size, "agent.unroll_length", agent.unroll_length, moments)

    def imported_names(self, config: ExperimentConfig) -> list[tuple[str, str]]:
        names = [(ENV_ID, config.env.id), ("agent.encoder", config.agent.encoder)]
        names += [("env.kwargs.wrappers", name) for name in config.env.wrapper_names()]
        if config.env.kwargs:
            from envs import receivers

            names += [(ENV_ARGUMENTS, f"{module}:") for module in receivers(config.env.id, config.env.kwargs)]
        return names

    def identity(self, config: ExperimentConfig) -> Mapping[str, Any]:
        from agents.trainer import identity

        return identity(config)

    def make_trainer(
        self, config: ExperimentConfig, address: str | None = None, trained: Mapping[str, Any] | None = None
    ) -> tuple[Trainer, SamplingPlan | None]:
        from agents.trainer import ImpalaTrainer

        if address is not None and not config.agent.num_actors:
            raise UserError("--address: agent.num_actors is 0, so there are no actor processes to place")
        trainer = ImpalaTrainer(config, address)
        for choice in trainer.learner.policy.encoder.choices:
            print(choice, file=sys.stderr)
        return trainer, None

    def evaluate(
        self, run: Path, checkpoint: Checkpoint, variants: Variants[ExperimentConfig], arguments: argparse.Namespace
    ) -> None:
        from agents.evaluation import MAX_STEPS
        from reverie.agent_evaluation import evaluate

        ((_, config),) = variants  # agents take no overrides here
        episodes, seed = arguments.episodes or 100, arguments.seed or 0
        evaluate(
            run,
            checkpoint,
            config,
            episodes,
            seed,
            greedy=arguments.greedy,
            video=arguments.video,
            num_envs=arguments.envs,
            max_steps=arguments.max_steps or MAX_STEPS,
            as_json=arguments.json,
        )

    def unit(self, run: Path, config: ExperimentConfig, checkpoint: Checkpoint) -> str:
        raise UserError(f"{run}: trains an agent; only models of text and of audio are compared, by documents or clips")

    def document_scores(
        self,
        checkpoint: Checkpoint,
        config: ExperimentConfig,
        unit: str,
        split: str,
        texts: Sequence[Text] | None,
    ) -> DocumentScores:
        raise UserError(f"{checkpoint.path}: is of an agent, which has no documents")

    def generate(
        self, run: Path, checkpoint: Checkpoint, config: ExperimentConfig, arguments: argparse.Namespace
    ) -> None:
        raise UserError(f"{run}: trains an agent; only models of text and of audio generate")

    def core_inputs(
        self, config: ExperimentConfig, checkpoint: Checkpoint, rows: int, steps_of: Callable[[MemoryCore], int]
    ) -> tuple[MemoryCore, Tensor, Tensor]:
        from agents.core_inputs import core_inputs

        return core_inputs(config, checkpoint.weights, rows, steps_of)
