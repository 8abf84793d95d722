"""Reinforcement-learning agents with memory: IMPALA actors, learner and evaluation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agents.config import ExperimentConfig

if TYPE_CHECKING:
    from agents.evaluation import Evaluation, evaluate
    from agents.learner import TrainingError
    from agents.trainer import ImpalaTrainer

__all__ = ["Evaluation", "ExperimentConfig", "ImpalaTrainer", "TrainingError", "evaluate"]


def __getattr__(name: str) -> Any:
    # The configuration is read and checked before torch is imported, so that a mistake in it is told at once.
    from agents import evaluation, learner, trainer

    for module in (trainer, evaluation, learner):
        if name in __all__ and hasattr(module, name):
            return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
