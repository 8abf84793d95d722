"""What the training loop asks of a trainer."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

from training.held_out import HeldOut


class Trainer(Protocol):
    """Something that learns one update at a time and can be saved and restored exactly."""

    @property
    def total_steps(self) -> int:
        """Environment steps, tokens or samples of the whole run."""

    @property
    def step_count(self) -> int:
        """Environment steps, tokens or samples so far."""

    @property
    def update_count(self) -> int:
        """Learner updates so far."""

    @property
    def skipped_in_a_row(self) -> int:
        """Updates skipped, as not finite, since the last one that was applied."""

    @property
    def held_out(self) -> HeldOut | None:
        """How the weights are scored on held-out data; None where they are not."""

    def update(self) -> dict[str, float]:
        """Make one learner update and return its scalar metrics by TensorBoard tag.

        A float is averaged over the updates between two rows of metrics; an int is a running count, and
        the row gets its latest value.
        """

    def weights(self) -> dict[str, Tensor]:
        """The weights by name."""

    def state(self) -> dict[str, Any]:
        """Everything else an exact resume needs, as what `torch.load(weights_only=True)` accepts."""

    def fingerprint(self) -> dict[str, Any]:
        """JSON data that must be equal for a checkpoint to load: core, width, options, spaces, env id."""

    def load(self, weights: dict[str, Tensor], state: dict[str, Any]) -> list[str]:
        """Restore what `weights` and `state` gave; returns warnings about what was not restored exactly."""

    def close(self) -> None:
        """Release processes and environments."""
