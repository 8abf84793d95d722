"""How a run is scored, while it trains, on data that it does not learn from."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

Check = Callable[[], None]
"""Called between the steps of long work; raises Stopped where the work is not to be finished."""


class Stopped(Exception):
    """Long work was given up, since the run is asked to stop."""


def never_stop() -> None:
    """The check of work that is always finished."""


@dataclass(frozen=True)
class HeldOut:
    """An evaluation that a run repeats; the best checkpoint is the one with the best score."""

    interval: int
    """Updates between two evaluations."""
    measure: Callable[[Check], dict[str, float]]
    """Metrics by TensorBoard tag, empty where nothing could be measured; changes nothing that training depends on."""
    score: str
    """The metric that is the score."""
    higher_is_better: bool
    """Whether the best score is the highest."""
    basis: Mapping[str, Any]
    """JSON data that says what is measured: scores with another basis cannot be compared."""


@contextlib.contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """A model in evaluation mode for the time of a `with` block, and after that in its own again."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
