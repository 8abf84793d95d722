"""The guard against updates that are not finite."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from training.errors import DivergenceError
from training.restoring import count_in

MAX_SKIPPED_IN_A_ROW = 5


class UpdateGuard:
    """Decides whether an update is applied, and counts those that are not."""

    def __init__(self) -> None:
        self.skipped = 0
        """Updates skipped since the run began."""
        self.skipped_in_a_row = 0
        """Updates skipped since the last one that was applied."""

    def allows(self, loss: float, gradient_norm: float) -> bool:
        """Whether an update with this loss and this gradient norm is to be applied: both must be finite.

        Raises DivergenceError at the fifth update in a row that is not.
        """
        if math.isfinite(loss) and math.isfinite(gradient_norm):
            self.skipped_in_a_row = 0
            return True
        self.skipped += 1
        self.skipped_in_a_row += 1
        if self.skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
            raise DivergenceError(
                f"{self.skipped_in_a_row} updates in a row had a loss or gradient that is not finite "
                f"(last loss {loss}, gradient norm {gradient_norm}); the weights are those before them"
            )
        return False

    def state(self) -> dict[str, int]:
        """The counts, as entries of a trainer's state."""
        return {"skipped_updates": self.skipped, "skipped_in_a_row": self.skipped_in_a_row}

    def load(self, state: Mapping[str, Any]) -> None:
        """Continue from the counts in a trainer's state."""
        self.skipped, self.skipped_in_a_row = (count_in(state, key) for key in ("skipped_updates", "skipped_in_a_row"))
