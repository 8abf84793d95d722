"""Which checkpoint of a run a command takes: the newest, the best, or that of a step."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from reverie import checkpoint
from reverie.checkpoint import Checkpoint
from reverie.run_folder import CHECKPOINTS, newest_checkpoint
from reverie.run_lock import RunFolderError

NEWEST, BEST = "newest", "best"

logger = logging.getLogger(__name__)


def find_checkpoint(run: Path, choice: str, adopt: Callable[[Checkpoint], object] | None = None) -> Checkpoint:
    """The checkpoint of a run that is `newest`, `best` by its held-out score, or of a step, a number.

    Better or newer ones that are damaged are logged. `adopt` is as in `checkpoint.first_intact`. Raises RunFolderError,
    which lists the checkpoints there are, if there is no such one, CheckpointError if all that it could be are damaged.
    """
    if choice == NEWEST:
        return newest_checkpoint(run, adopt)
    root = run / CHECKPOINTS
    if choice == BEST:
        found, skipped = checkpoint.best(root, adopt=adopt)
    else:
        of_step = [path for path in checkpoint.folders(root) if _step(path) == int(choice)]
        found, skipped = checkpoint.first_intact(reversed(of_step), adopt=adopt)
    for entry in skipped:
        logger.warning("skipped a checkpoint: %s", entry.reason)
    if found is None:
        missing = "no checkpoint with a held-out score" if choice == BEST else f"no checkpoint of step {int(choice)}"
        raise RunFolderError(f"{run}: has {missing}; {_describe(root)}")
    return found


def _describe(root: Path) -> str:
    """A sentence that lists the checkpoints of a run, and says which is the best."""
    steps = [_step(path) for path in checkpoint.folders(root)]
    if not steps:
        return "it holds no checkpoint yet"
    best = [_step(path) for path, _ in checkpoint.ranking(root)[:1]]
    named = [f"{step}{' (best)' if step in best else ''}" for step in dict.fromkeys(steps)]
    evaluated = "" if best else "; they come from evaluations during training, every train.evaluation_interval updates"
    return f"it has {', '.join(named)}{evaluated}"


def _step(path: Path) -> int:
    return int(path.name.partition("-")[0])
