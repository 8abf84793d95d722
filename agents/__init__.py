"""Reinforcement-learning agents with memory: IMPALA actors, learner and evaluation."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from agents.config import ExperimentConfig

if TYPE_CHECKING:
    from agents.evaluation import Evaluation, evaluate
    from agents.learner import TrainingError
    from agents.trainer import ImpalaTrainer

__all__ = ["Evaluation", "ExperimentConfig", "ImpalaTrainer", "TrainingError", "evaluate"]

MODULES = {
    "Evaluation": "agents.evaluation",
    "ImpalaTrainer": "agents.trainer",
    "TrainingError": "agents.learner",
    "evaluate": "agents.evaluation",
}


def __getattr__(name: str) -> Any:
    # A configuration is read and checked before torch is imported, so that a mistake in it is told at once.
    if name not in MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(MODULES[name]), name)
