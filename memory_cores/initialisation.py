"""Initial weights."""

from __future__ import annotations

from torch import nn


def fan_in_normal_(layer: nn.Linear) -> None:
    """Fill the weight with N(0, 1 / inputs), so that unit inputs give unit outputs, and the bias with zeros.

    Depends on the inputs alone, so matrices that are fused along their outputs start as they would have
    apart.
    """
    nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
