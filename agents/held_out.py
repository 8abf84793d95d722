"""Evaluation of an agent while it trains, on episodes that neither training nor `reverie evaluate` plays."""

from __future__ import annotations

import contextlib
import logging
import random
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from agents.config import ExperimentConfig
from agents.evaluation import evaluate
from envs import EnvError, EnvFault
from training.held_out import Check, HeldOut
from training.progress import ProgressLine

SEED = 2**31
"""One beyond those that `reverie evaluate --seed` takes: what chose a checkpoint is not what judges it."""
SCORE = "evaluation/return"
"""The metric by which the best checkpoint is chosen."""

logger = logging.getLogger(__name__)


def held_out_episodes(config: ExperimentConfig, weights: Callable[[], dict[str, Tensor]]) -> HeldOut | None:
    """The evaluation that a configuration asks for, of the weights there are by then; None where it asks for none.

    The same episodes are played each time, in this process and in environments of their own. An environment that
    faults gives no metrics and a warning.
    """
    train, episodes = config.train, config.train.evaluation_episodes
    if train.evaluation_interval is None:
        return None

    def measure(check: Check) -> dict[str, float]:
        def tell(finished: int, steps: int) -> None:
            line.update(finished, {"steps": steps})
            check()

        try:
            with kept_generators(), ProgressLine(episodes, unit="episodes", what="evaluating") as line:
                result = evaluate(config, weights(), episodes, SEED, advise=False, progress=tell)
        except (EnvError, EnvFault) as error:
            logger.warning("an evaluation is left out: %s", error)
            return {}
        metrics = {SCORE: result.mean_return, "evaluation/length": result.mean_length}
        return metrics if result.success_rate is None else {**metrics, "evaluation/success": result.success_rate}

    basis = {"env": {"id": config.env.id, "kwargs": config.env.kwargs}, "episodes": episodes}
    return HeldOut(train.evaluation_interval, measure, SCORE, higher_is_better=True, basis=basis)


@contextlib.contextmanager
def kept_generators() -> Iterator[None]:
    """Give the global random numbers of Python, numpy and torch back as they were before a `with` block."""
    of_python, of_numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)  # noqa: NPY002
