"""What is said of a device that is not there."""

from __future__ import annotations

import pytest

from training.device import require_device
from training.errors import UserError


def test_a_device_that_is_missing_is_named() -> None:
    with pytest.raises(UserError, match=r"train\.device: cuda:99: torch .* finds .*CUDA device.* train\.device=cpu"):
        require_device("cuda:99")


def test_the_cpu_is_always_there() -> None:
    require_device("cpu")
