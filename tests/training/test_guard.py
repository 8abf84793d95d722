"""The guard against updates that are not finite."""

from __future__ import annotations

import math

import pytest

from training.errors import DivergenceError, InputError, TrainingError, UserError
from training.guard import UpdateGuard

BAD = [(math.nan, 1.0), (1.0, math.inf), (-math.inf, math.nan)]


@pytest.mark.parametrize(("loss", "gradient_norm"), BAD)
def test_the_fifth_update_in_a_row_that_is_not_finite_ends_the_run(loss: float, gradient_norm: float) -> None:
    guard = UpdateGuard()
    assert guard.allows(1.0, 2.0)
    assert not any(guard.allows(loss, gradient_norm) for _ in range(4))
    with pytest.raises(DivergenceError, match=f"5 updates in a row .*last loss {loss}, gradient norm {gradient_norm}"):
        guard.allows(loss, gradient_norm)


def test_a_finite_update_ends_the_row_and_a_state_carries_it_on() -> None:
    guard = UpdateGuard()
    for _ in range(4):
        guard.allows(math.nan, 1.0)
    assert guard.allows(0.0, 0.0)
    assert guard.state() == {"skipped_updates": 4, "skipped_in_a_row": 0}
    guard.allows(math.nan, 1.0)
    other = UpdateGuard()
    other.load(guard.state())
    assert not any(other.allows(math.nan, 1.0) for _ in range(3))
    with pytest.raises(DivergenceError):
        other.allows(math.nan, 1.0)
    assert other.skipped == 9


def test_errors_carry_the_exit_codes_that_the_help_lists() -> None:
    codes = {kind.__name__: kind.exit_code for kind in (UserError, InputError, TrainingError, DivergenceError)}
    assert codes == {"UserError": 2, "InputError": 2, "TrainingError": 1, "DivergenceError": 3}
